/* What every view is made of: elements without a shadow, so that one style sheet dresses all; numbers, words, problems. */

import { LitElement, html, nothing } from './vendor/lit/lit-element.js';
import { beside, place } from './address.js';

export { html, nothing };

/** An element that draws into itself and can be told to give up what it waits for. */
export class Part extends LitElement {
  createRenderRoot() {
    return this;
  }

  /** A signal for the work that begins now; it ends what was begun before. */
  begin() {
    this._work?.abort();
    this._work = new AbortController();
    return this._work.signal;
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    this._work?.abort();
  }
}

export const number = (value, digits = 3) => {
  if (value === null || value === undefined || !Number.isFinite(value)) return '–';
  const size = Math.abs(value);
  return size !== 0 && (size >= 1e5 || size < 1e-3) ? value.toExponential(1) : String(Number(value.toPrecision(digits)));
};

export const percent = (share) => (share < 0.01 ? '< 1 %' : `${Math.round(100 * share)} %`);

export const sides = (shape) => shape.join(' × ');

export const shorter = (name, most = 28) => (name.length > most ? `…${name.slice(-most + 1)}` : name);

/** What went wrong, with a way on where there is one. */
export function problem(error) {
  if (!error || error.name === 'AbortError') return nothing;
  const { possible = [], near = [], title } = error.document ?? {};
  const others = (near.length ? near : possible).filter((name) => typeof name === 'string').slice(-6);
  const layered = ['not-applicable', 'unknown-layer'].includes(error.kind) && place().layer;
  return html`<div class="problem" role="alert">
    <strong>${title ?? 'Something went wrong'}</strong>
    <p>${error.message}</p>
    ${layered && others.length
      ? html`<p>Try ${others.map((name) => html`<a class="chip" href=${beside({ ...place(), layer: name })}>${name}</a> `)}</p>`
      : nothing}
  </div>`;
}

export const waiting = (what = 'Computing') => html`<div class="waiting" role="status"><span class="spinner"></span>${what} …</div>`;

/** How a picture is read, and what it does not say. */
export const reading = (told) =>
  told ? html`<p class="how">${told.how}</p><p class="caution"><span class="tag">Caution</span> ${told.caution}</p>` : nothing;

/* A picture with what belongs to it: a heading, how to read it, its caution, and the request that made it. */

import { asQuery, picture, pictureAt } from './api.js';
import { Part, html, nothing, problem, reading, waiting } from './parts.js';
import './request.js';

/**
 * Properties: `wish` { operation, body, query } is what is drawn, and what its request says; `href` the address of the
 * picture where a job has made it already; `heading`, `alt` and `reading` { how, caution } are words; `bare` leaves all
 * but picture and request away.
 */
class Figure extends Part {
  static properties = {
    wish: { hasChanged: (now, before) => JSON.stringify(now) !== JSON.stringify(before) },
    href: {}, heading: {}, alt: {}, reading: {}, bare: { type: Boolean }, job: {},
    shown: { state: true }, error: { state: true },
  };

  willUpdate(changed) {
    if (changed.has('wish') || changed.has('href')) this._draw();
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    this._release();
  }

  connectedCallback() {
    super.connectedCallback();
    if (this.hasUpdated && !this.shown) this._draw();
  }

  render() {
    const what = this.error ? problem(this.error) : this.shown ? this._picture() : waiting();
    return html`<figure class=${this.bare ? 'bare' : 'card'}>
      ${this.heading && !this.bare ? html`<h2 class="title">${this.heading}</h2>` : nothing}
      <div class="picture">${what}</div>
      ${this.bare ? nothing : html`<figcaption>${reading(this.reading)}</figcaption>`}
      <cs-request .wish=${this.wish} .job=${this.shown?.job || this.job}></cs-request>
    </figure>`;
  }

  _picture() {
    return html`<a href=${this.shown.url} target="_blank" title="Open the picture alone"><img src=${this.shown.url} alt=${this.alt ?? this.heading ?? ''}></a>`;
  }

  async _draw() {
    const signal = this.begin();
    this.error = undefined;
    this._release();
    if (!this.wish) return;
    try {
      const query = asQuery(this.wish.query ?? {});
      const found = this.href ? await pictureAt(this.href + query, signal) : await picture(this.wish, signal);
      if (signal.aborted) URL.revokeObjectURL(found.url);
      else this.shown = found;
    } catch (error) {
      if (!signal.aborted) this.error = error;
    }
  }

  _release() {
    if (this.shown) URL.revokeObjectURL(this.shown.url);
    this.shown = undefined;
  }
}

customElements.define('cs-figure', Figure);

/** A figure that is made once it is opened. Properties: `summary` is what opens it; the others are the figure's. */
class Later extends Part {
  static properties = { summary: {}, wish: { hasChanged: Figure.properties.wish.hasChanged }, alt: {}, reading: {}, open: { state: true } };

  render() {
    return html`<details class="later" .open=${Boolean(this.open)} @toggle=${(event) => { this.open = event.target.open; }}><summary>${this.summary}</summary>
      ${this.open ? html`<cs-figure .wish=${this.wish} .alt=${this.alt} .reading=${this.reading}></cs-figure>` : nothing}</details>`;
  }
}

customElements.define('cs-later', Later);

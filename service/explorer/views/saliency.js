/* Saliency: how each pixel pushes a class, by several methods beside each other. */

import { beside, go } from '../address.js';
import { Part, html, nothing, reading, waiting } from '../parts.js';
import { READING, SALIENCY_METHODS } from '../reading.js';
import { classField, className, classesOf } from './choices.js';
import '../figure.js';

const FIRST = ['gradient', 'smoothgrad', 'integrated-gradients'];

class SaliencyView extends Part {
  static properties = { told: {} };

  get methods() {
    const asked = (this.told.at.methods ?? FIRST.join(',')).split(',');
    return Object.keys(SALIENCY_METHODS).filter((name) => asked.includes(name));
  }

  _change(parts) {
    go(beside({ ...this.told.at, ...parts }));
  }

  render() {
    const { at, card, predictions } = this.told;
    const [target] = classesOf(this.told, 1);
    return html`<h1 tabindex="-1">Which pixels matter</h1>
      ${reading(READING.saliency)}
      <div class="options card"><fieldset><legend>Methods</legend><div class="checks">${Object.entries(SALIENCY_METHODS).map(([name, told]) => html`<label title=${told}>
        <input type="checkbox" .checked=${this.methods.includes(name)} @change=${() => this._toggle(name)}>${name}</label>`)}</div></fieldset></div>
      <div class="row"><span>For</span>${(predictions?.predictions[0] ?? []).map((one) => html`<button type="button" class="chip" aria-pressed=${one.index === target}
        @click=${() => this._change({ targets: one.index })}>${one.name ?? one.index}</button>`)}
        ${target !== undefined && !predictions?.predictions[0].some((one) => one.index === target) ? html`<span class="chip chosen">${className(card, target)}</span>` : nothing}
        ${classField(card, 'saliency-class', (index) => this._change({ targets: index }))}</div>
      ${target === undefined ? waiting('Looking') : html`<div class="pair">${this.methods.map((method) => html`<cs-figure .heading=${method}
        .wish=${{ operation: 'saliency', body: { image: { id: at.image }, model: card.id, method, target }, query: {} }}
        .reading=${{ how: SALIENCY_METHODS[method], caution: READING.saliency.caution }} .alt=${`${method} of ${className(card, target)}`}></cs-figure>`)}</div>`}`;
  }

  _toggle(name) {
    const methods = this.methods.includes(name) ? this.methods.filter((other) => other !== name) : [...this.methods, name];
    if (methods.length) this._change({ methods: methods.join(',') });
    else this.requestUpdate();
  }
}

customElements.define('cs-saliency', SaliencyView);

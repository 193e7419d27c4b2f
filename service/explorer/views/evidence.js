/* Class activation maps side by side: a row for each class, a column for each method. */

import { facts } from '../api.js';
import { beside, go } from '../address.js';
import { Part, html, nothing, percent, problem, reading, waiting } from '../parts.js';
import { CAM_METHODS, READING } from '../reading.js';
import { classField, className, classesOf, layerOptions } from './choices.js';
import '../figure.js';

const FIRST = ['gradcam', 'layercam', 'eigencam'];
const SLOW = new Set(['scorecam', 'ablationcam']);

class EvidenceView extends Part {
  static properties = { told: {}, job: { state: true }, error: { state: true } };

  get methods() {
    const asked = (this.told.at.methods ?? FIRST.join(',')).split(',');
    return Object.keys(CAM_METHODS).filter((name) => asked.includes(name));
  }

  get layer() {
    return this.told.at.layer && this.told.card.layers.find((row) => row.name === this.told.at.layer)?.methods.cam === null
      ? this.told.at.layer : this.told.card.default_layers.cam?.[0];
  }

  willUpdate(changed) {
    if (!changed.has('told')) return;
    const body = this._body();
    const wanted = JSON.stringify(body);
    if (wanted !== this._wanted && body.targets.length && body.methods.length) {
      this._wanted = wanted;
      this._look(body);
    }
  }

  _body() {
    const { at, card } = this.told;
    return { image: { id: at.image }, model: card.id, methods: this.methods, layer: this.layer, targets: classesOf(this.told, 2), upsampled: false };
  }

  async _look(body) {
    const asked = this._wanted;
    this.error = undefined;
    this.job = undefined;
    try {
      const job = await facts('cam', body);
      if (asked === this._wanted) this.job = job;
    } catch (error) {
      if (asked === this._wanted) this.error = error;
    }
  }

  _change(parts) {
    const { at } = this.told;
    go(beside({ ...at, ...parts }));
  }

  render() {
    const { card } = this.told;
    const targets = classesOf(this.told, 2);
    return html`<h1 tabindex="-1">Where the evidence lies</h1>
      ${reading(READING.cam)}
      <form class="options card" @submit=${(event) => event.preventDefault()}>
        <fieldset><legend>Methods</legend><div class="checks">${Object.entries(CAM_METHODS).map(([name, told]) => html`<label title=${told}>
          <input type="checkbox" .checked=${this.methods.includes(name)} @change=${() => this._toggle(name)}>${name}${SLOW.has(name) ? html`<small> slow</small>` : nothing}</label>`)}</div></fieldset>
        <label class="field">At the layer <select @change=${(event) => this._change({ layer: event.target.value })}>${layerOptions(card, 'cam', this.layer)}</select></label>
      </form>
      <div class="row">${targets.map((target) => html`<span class="chip">${className(card, target)}
        ${targets.length > 1 ? html`<button type="button" aria-label="Without ${className(card, target)}" @click=${() => this._change({ targets: targets.filter((other) => other !== target).join(',') })}>×</button>` : nothing}</span>`)}
        ${classField(card, 'evidence-class', (index) => this._change({ targets: [...new Set([...targets, index])].join(',') }))}</div>
      ${this.error ? problem(this.error) : this.job ? this._grid() : waiting('Looking for evidence')}`;
  }

  _toggle(name) {
    const methods = this.methods.includes(name) ? this.methods.filter((other) => other !== name) : [...this.methods, name];
    if (methods.length) this._change({ methods: methods.join(',') });
    else this.requestUpdate();
  }

  _grid() {
    const { maps } = this.job.result.facts;
    const methods = [...new Set(maps.map((one) => one.method))];
    const targets = [...new Set(maps.map((one) => one.target))];
    return html`<div class="grid-scroll" tabindex="0" role="region" aria-label="Maps by class and method"><table class="cam-grid">
      <thead><tr><td></td>${methods.map((method) => html`<th scope="col">${method}<small>${CAM_METHODS[method]}</small></th>`)}</tr></thead>
      <tbody>${targets.map((target) => this._row(maps.filter((one) => one.target === target), methods))}</tbody>
    </table></div>
    <cs-later summary="All as one picture" .reading=${READING.cam} .alt=${`Maps by ${methods.join(', ')}`}
      .wish=${{ operation: 'cam', body: this._body(), query: {} }}></cs-later>
    ${this.job.result.facts.notes.map((note) => html`<p class="caution"><span class="tag">Caution</span> ${note}</p>`)}`;
  }

  _row(maps, methods) {
    const [first] = maps;
    const name = first.name ?? `class ${first.target}`;
    return html`<tr><th scope="row">${name}<small>${percent(first.probability)}</small></th>
      ${methods.map((method) => {
        const one = maps.find((other) => other.method === method);
        if (!one) return html`<td></td>`;
        const picked = this.job.result.pictures.find((picture) => picture.name === `${method}/${one.target}`);
        return html`<td><cs-figure bare .wish=${{ operation: 'cam', body: this._body(), query: { pick: picked.name, title: 'none' } }}
          .href=${picked.href} .job=${this.job.id} .alt=${`${method} for ${name}`}></cs-figure>${one.all_negative ? html`<p class="quiet">All evidence speaks against it.</p>` : nothing}</td>`;
      })}</tr>`;
  }
}

customElements.define('cs-evidence', EvidenceView);

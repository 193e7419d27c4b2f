/* A channel's page: its map over the photograph, its projection, its maximizing picture made on the spot. */

import { facts, readOnce, submit } from '../api.js';
import { beside, go, place } from '../address.js';
import { Part, html, nothing, number, problem, sides } from '../parts.js';
import { READING } from '../reading.js';
import '../figure.js';
import '../live.js';
import './strongest.js';

class ChannelView extends Part {
  static properties = { told: {}, problem: { state: true }, preset: { state: true }, presets: { state: true }, stats: { state: true } };

  constructor() {
    super();
    readOnce('/v1/operations').then(({ operations }) => this._offers(operations)).catch((error) => { this.problem = error; });
  }

  _offers(operations) {
    const maximize = operations.find((one) => one.name === 'maximize')?.request_schema.properties ?? {};
    this.presets = maximize.preset?.enum ?? [];
    this.preset ??= maximize.preset?.default;
  }

  willUpdate(changed) {
    if (!changed.has('told')) return;
    const { at, card } = this.told;
    this.row = card.layers.find((row) => row.name === at.layer || row.aliases.includes(at.layer));
    const wanted = JSON.stringify([at.image, card.id, at.layer, at.channel]);
    if (wanted !== this._wanted && this.row) {
      this._wanted = wanted;
      this.problem = undefined;
      this._measure();
    }
  }

  async _measure() {
    this.stats = undefined;
    if (this.row.methods['feature-maps'] !== null) return;
    const asked = this._wanted;
    try {
      const job = await facts('feature-maps', this._body());
      if (asked === this._wanted) this.stats = job.result.facts.layers[0];
    } catch (error) {
      if (asked === this._wanted) this.problem = error;
    }
  }

  get channel() {
    return Number(this.told.at.channel) || 0;
  }

  _body(more = {}) {
    const { at, card } = this.told;
    return { image: { id: at.image }, model: card.id, layer: this.row.name, channels: [this.channel], ...more };
  }

  render() {
    const { at } = this.told;
    if (!this.row) return html`<p class="notice">This network has no layer ${at.layer}. <a href=${beside({ view: 'layer' })}>To the network</a></p>`;
    const { row, channel } = this;
    const last = row.shape[0] - 1;
    const to = (other) => beside({ view: 'channel', layer: row.name, channel: other });
    return html`
      <p class="crumbs"><a href=${beside({ view: 'layer', layer: row.name })}>${row.name}</a> / channel ${channel}</p>
      <div class="title-row">
        <h1 tabindex="-1">Channel ${channel} <small>of ${row.name}</small></h1>
        <span class="stepper">
          ${channel > 0 ? html`<a class="button small" href=${to(channel - 1)} rel="prev">← ${channel - 1}</a>` : nothing}
          ${channel < last ? html`<a class="button small" href=${to(channel + 1)} rel="next">${channel + 1} →</a>` : nothing}
        </span>
      </div>
      ${this._stats()}
      <div class="pair">
        ${row.shape.length === 3 ? this._map() : nothing}
        ${row.shape.length === 3 ? this._projection() : nothing}
        ${this._maximize()}
        <cs-strongest .card=${this.told.card} .row=${row} .channel=${channel} .job=${at.sweep}></cs-strongest>
      </div>`;
  }

  _stats() {
    const { row, stats } = this;
    const field = row.receptive_field ? ` Each unit sees ${sides(row.receptive_field.size)} pixels.` : '';
    if (!stats) return html`<p class="quiet">${field}</p>`;
    return html`<p class="quiet">On this photograph: mean ${number(stats.mean[0][0])}, largest ${number(stats.maximum[0][0])}, zero at ${Math.round(100 * stats.zeros[0][0])} % of places.${field}</p>`;
  }

  _map() {
    const body = this._body();
    return html`<cs-figure heading="Where it answers" .wish=${{ operation: 'feature-maps', body, query: { view: 'overlay' } }}
      .reading=${READING.overlay} alt="The map of channel ${this.channel} laid over the photograph"></cs-figure>`;
  }

  _projection() {
    const refusal = this.row.methods.deconv;
    const bent = refusal?.includes('nonstandard_gate');
    if (refusal && !bent) return html`<div class="card"><h2 class="title">What drove it</h2><p class="notice">Not possible here: ${refusal}.</p></div>`;
    const body = this._body(bent ? { nonstandard_gate: true } : {});
    const told = bent ? { ...READING.projection, caution: `The rule is not defined for this network’s activations and is applied as if they were ReLUs. ${READING.projection.caution}` } : READING.projection;
    return html`<cs-figure heading="What drove it" .wish=${{ operation: 'deconv', body, query: {} }} .reading=${told}
      alt="The patch that channel ${this.channel} answered to most, and the pixels that drove it"></cs-figure>`;
  }

  _maximize() {
    const { at } = this.told;
    return html`<section class="card maximize" aria-labelledby="maximize-title">
      <h2 class="title" id="maximize-title">What it looks for</h2>
      ${this.row.methods.maximize !== null ? html`<p class="notice">Not possible here: ${this.row.methods.maximize}.</p>` : html`
      <div class="row">
        <label>Recipe <select @change=${(event) => { this.preset = event.target.value; }}>${(this.presets ?? []).map((name) => html`<option ?selected=${name === this.preset}>${name}</option>`)}</select></label>
        <button type="button" class=${at.job ? '' : 'primary'} ?disabled=${!this.preset} @click=${this._make}>${at.job ? 'Make it again' : 'Make its picture'}</button>
      </div>
      ${problem(this.problem)}
      ${at.job ? html`<cs-live .job=${at.job} heading="Its maximizing picture" .reading=${READING.maximize} alt="A picture made to excite channel ${this.channel}"></cs-live>`
        : html`<p class="quiet">Made from noise by gradient ascent, while you watch: some ten seconds on a fast machine, a minute or two on a slow one.</p>`}`}
    </section>`;
  }

  async _make() {
    this.problem = undefined;
    const { card } = this.told;
    const body = { model: card.id, objective: { layer: this.row.name, channel: this.channel }, preset: this.preset };
    try {
      const { id } = await submit('maximize', body);
      go(beside({ ...place(), job: id }));
    } catch (error) {
      this.problem = error;
    }
  }
}

customElements.define('cs-channel', ChannelView);

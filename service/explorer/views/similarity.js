/* CKA: which channels of a layer, or which layers, answer alike; a matrix to walk through with both maps beside it. */

import { array, facts, submit } from '../api.js';
import { beside, go, href, place } from '../address.js';
import { SAMPLES, samples, seen } from '../images.js';
import { Part, html, nothing, number, problem, reading } from '../parts.js';
import { READING } from '../reading.js';
import { layerOptions } from './choices.js';
import '../heatmap.js';
import '../live.js';
import './layer.js';

class SimilarityView extends Part {
  static properties = {
    told: {}, problem: { state: true }, job: { state: true }, matrix: { state: true }, walked: { state: true },
    maps: { state: true }, mode: { state: true }, busy: { state: true }, count: { state: true }, layer: { state: true },
  };

  constructor() {
    super();
    this.mode = 'channels';
    this.count = '24';
  }

  willUpdate(changed) {
    if (!changed.has('told')) return;
    const { at, card } = this.told;
    this.layer = at.layer && card.layers.some((row) => row.name === at.layer && row.methods.cka === null) ? at.layer : card.default_layers.cka?.[0];
    if (!at.job) this.job = undefined;
  }

  async _compute() {
    this.busy = true;
    this.problem = undefined;
    try {
      const { at, card } = this.told;
      const others = [...new Set([at.image, ...(await samples()), ...seen()])];
      const body = this.mode === 'channels'
        ? { mode: 'channels', model: card.id, image: { id: at.image }, layer: this.layer, channels: this.count }
        : { mode: 'layers', model: card.id, images: others.map((id) => ({ id })), features: 'pool', estimator: 'debiased' };
      if (body.channels && body.channels !== 'all') body.channels = `first:${body.channels}`;
      const { id } = await submit('cka', body);
      go(href({ ...place(), layer: this.layer, job: id }));
    } catch (error) {
      this.problem = error;
    }
    this.busy = false;
  }

  async _finished({ detail: job }) {
    const [told] = job.result.facts.matrices;
    const { data } = await array(job, told.array);
    this.walked = undefined;
    this.maps = undefined;
    this.matrix = { told, data };
    this.job = job;
    await this._look(job, told);
  }

  /** The maps of every row on the photograph: a channel's map, or a layer's strongest. */
  async _look(job, told) {
    const { at, card } = this.told;
    const { request } = job;
    const layer = told.array.replace('matrix/', '');
    const spatial = (name) => card.layers.find((row) => row.name === name)?.shape.length === 3;
    try {
      if (request.mode === 'channels' && spatial(layer)) {
        const found = await facts('feature-maps', { image: { id: at.image }, model: card.id, layer, channels: told.rows.map(Number) });
        const maps = await array(found, `maps/${layer}`);
        this.maps = (label) => ({ data: maps.data, shape: maps.shape.slice(2), place: told.rows.indexOf(label), words: `channel ${label}`,
          to: beside({ view: 'channel', layer, channel: label }) });
      } else if (request.mode === 'layers') {
        const names = told.rows.filter(spatial);
        const found = await facts('feature-maps', { image: { id: at.image }, model: card.id, layers: names, channels: 'top:1' });
        const each = Object.fromEntries(await Promise.all(names.map(async (name) => [name, await array(found, `maps/${name}`)])));
        this.maps = (label) => each[label] && ({ data: each[label].data, shape: each[label].shape.slice(2), place: 0, words: `${label}, its strongest map`,
          to: beside({ view: 'layer', layer: label }) });
      }
    } catch (error) {
      this.problem = error;
    }
  }

  render() {
    const { at, card } = this.told;
    const layers = this.mode === 'layers';
    return html`<h1 tabindex="-1">What answers alike</h1>
      ${reading(READING.similarity)}
      <form class="options card" @submit=${(event) => { event.preventDefault(); this._compute(); }}>
        <fieldset><legend>Compare</legend><div class="checks">
          <label><input type="radio" name="mode" .checked=${!layers} @change=${() => { this.mode = 'channels'; }}>channels of a layer, on this photograph</label>
          <label><input type="radio" name="mode" .checked=${layers} @change=${() => { this.mode = 'layers'; }}>the network’s stages, on this photograph, the ${SAMPLES.length} samples and what you looked at</label></div></fieldset>
        ${layers ? nothing : html`<label class="field">Layer <select @change=${(event) => { this.layer = event.target.value; }}>${layerOptions(card, 'cka', this.layer)}</select></label>
          <label class="field">Channels <select @change=${(event) => { this.count = event.target.value; }}>${['12', '24', '48', 'all'].map((count) => html`<option value=${count} ?selected=${count === this.count}>${count === 'all' ? 'all' : `the first ${count}`}</option>`)}</select></label>`}
        <button class="primary" ?disabled=${this.busy}>Compare</button>
      </form>
      ${problem(this.problem)}
      ${at.job ? html`<cs-live quiet .job=${at.job} @finished=${this._finished}></cs-live>` : nothing}
      ${this.job && at.job ? this._shown() : nothing}`;
  }

  _shown() {
    const { told, data } = this.matrix;
    const { mode, kernel, estimator } = this.job.result.facts;
    const what = mode === 'channels' ? `channels of ${told.array.replace('matrix/', '')}` : 'layers';
    const unrelated = told.baseline.permutation_mean ?? told.baseline.floor;
    return html`<div class="pair matrix">
      <section class="card" aria-labelledby="matrix-title"><h2 id="matrix-title" class="minor">CKA of ${what}</h2>
        <cs-heat .values=${data} .rows=${told.rows} .columns=${told.columns} .label=${`CKA of ${what}`} @walked=${({ detail }) => { this.walked = detail; }}></cs-heat>
        <p class="quiet">${kernel}, ${estimator}, ${told.samples} samples. Unrelated ${mode} would score ${number(unrelated, 2)} here; the mean of all pairs is ${number(told.mean_off_diagonal, 2)}.</p>
        ${told.warnings.map((words) => html`<p class="caution"><span class="tag">Caution</span> ${words}</p>`)}
      </section>
      <section class="card" aria-labelledby="pair-title" aria-live="polite"><h2 id="pair-title" class="minor">The pair</h2>${this._pair()}${this._alike()}</section>
    </div>
    <cs-figure heading="To print" .wish=${{ operation: 'cka', body: this._asked(), query: {} }} .href=${this.job.result.pictures[0].href} .job=${this.job.id} .reading=${READING.similarity} alt="The matrix with its labels"></cs-figure>`;
  }

  _asked() {
    return Object.fromEntries(Object.entries(this.job.request).filter(([, value]) => value !== null && !(Array.isArray(value) && !value.length)));
  }

  _pair() {
    if (!this.walked) return html`<p class="quiet">Move over the matrix, or walk through it with the arrow keys.</p>`;
    const { told, data } = this.matrix;
    const { row, column } = this.walked;
    const value = data[row * told.columns.length + column];
    return html`<p class="big"><b>${number(value)}</b> <span>${told.rows[row]} and ${told.columns[column]}</span></p>
      <div class="two-maps">${[told.rows[row], told.columns[column]].map((label) => {
        const map = this.maps?.(label);
        return map ? html`<figure><a href=${map.to}><cs-map .data=${map.data} .shape=${map.shape} .place=${map.place}></cs-map><figcaption>${map.words}</figcaption></a></figure>` : html`<p class="quiet">${label}</p>`;
      })}</div>`;
  }

  _alike() {
    const { told, data } = this.matrix;
    const width = told.columns.length;
    const pairs = [];
    told.rows.forEach((name, row) => {
      for (let column = row + 1; column < width; column += 1) {
        if (Number.isFinite(data[row * width + column])) pairs.push([data[row * width + column], name, told.columns[column]]);
      }
    });
    pairs.sort((a, b) => b[0] - a[0]);
    return html`<h3>Most alike</h3><ol class="alike">${pairs.slice(0, 6).map(([value, one, other]) => html`<li>${one} and ${other} <b>${number(value)}</b></li>`)}</ol>`;
  }
}

customElements.define('cs-similarity', SimilarityView);

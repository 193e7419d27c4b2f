/* The network as a graph, and beside it the chosen layer: its maps, strongest first. */

import { array, facts } from '../api.js';
import { beside } from '../address.js';
import { Part, html, nothing, number, problem, reading, sides, waiting } from '../parts.js';
import { READING } from '../reading.js';
import { paint, range } from '../colors.js';
import '../figure.js';
import '../graph.js';
import '../request.js';

const FIRST = 24;

/** A channel's map as a tile: Properties `data`, `shape` (H, W), `place` in the data. */
class MapTile extends Part {
  static properties = { data: {}, shape: {}, place: {} };

  render() {
    return html`<canvas aria-hidden="true"></canvas>`;
  }

  updated() {
    const [height, width] = this.shape;
    const offset = this.place * height * width;
    paint(this.querySelector('canvas'), this.data, width, height, { ...range(this.data, offset, height * width), offset });
  }
}

customElements.define('cs-map', MapTile);

class LayerView extends Part {
  static properties = { told: {}, found: { state: true }, error: { state: true }, most: { state: true } };

  constructor() {
    super();
    this.most = FIRST;
  }

  /** The layer that is looked at: the address's, else a middle one. */
  get row() {
    const { at, card } = this.told;
    const named = card.layers.find((row) => row.name === at.layer || row.aliases.includes(at.layer));
    return named ?? card.layers.find((row) => row.name === (card.stages[2] ?? card.stages.at(-1) ?? card.default_layers['feature-maps']?.[0])) ?? card.layers[0];
  }

  willUpdate(changed) {
    if (!changed.has('told') && !changed.has('most')) return;
    const { at, card } = this.told;
    if (this._name !== this.row.name) this.most = FIRST;
    const wanted = JSON.stringify([at.image, card.id, this.row.name, this.most]);
    this._name = this.row.name;
    if (wanted !== this._wanted) {
      this._wanted = wanted;
      this._look();
    }
  }

  _body() {
    const { at, card } = this.told;
    const count = Math.min(this.most, this.row.shape[0]);
    return { image: { id: at.image }, model: card.id, layer: this.row.name, channels: `top:${count}` };
  }

  async _look() {
    const signal = this.begin();
    this.found = undefined;
    this.error = undefined;
    if (this.row.methods['feature-maps'] !== null || this.row.shape.length !== 3) return;
    try {
      const job = await facts('feature-maps', this._body());
      const maps = await array(job, `maps/${this.row.name}`, signal);
      if (!signal.aborted) this.found = { maps, layer: job.result.facts.layers[0] };
    } catch (error) {
      if (!signal.aborted) this.error = error;
    }
  }

  render() {
    const { row } = this;
    const { card } = this.told;
    const field = row.receptive_field;
    return html`<div class="network">
      <div class="graph-side"><h2 class="minor">${card.title}</h2><cs-graph .card=${card} .layer=${row.name}></cs-graph>
        <p class="quiet">From the image down to the classes. + opens a stage or a block.</p></div>
      <section class="layer-side" aria-labelledby="layer-name">
        <h1 id="layer-name" tabindex="-1">${row.name}</h1>
        <dl class="facts">
          <div><dt>What it is</dt><dd>${row.container ? `${row.kind}, a block` : row.kind}</dd></div>
          <div><dt>Output</dt><dd>${row.shape.length === 3 ? `${row.shape[0]} channels of ${row.shape[1]} × ${row.shape[2]}` : sides(row.shape)}</dd></div>
          ${row.kernel_shape ? html`<div><dt>Kernels</dt><dd>${row.kernel_shape[2]} × ${row.kernel_shape[3]}</dd></div>` : nothing}
          <div><dt>Each unit sees</dt><dd>${field ? `${sides(field.size)} pixels, ${sides(field.jump.map((each) => number(each)))} apart` : 'all of the image, or an unknown part of it'}</dd></div>
          <div><dt>Reads</dt><dd>${row.inputs.map((name) => (name === '@input' ? 'the image' : html`<a href=${beside({ view: 'layer', layer: name })}>${name}</a> `))}</dd></div>
        </dl>
        <p class="row">${row.methods.cam === null ? html`<a class="chip" href=${beside({ view: 'evidence', layer: row.name })}>Evidence at this layer</a>` : nothing}
          ${row.methods.cka === null ? html`<a class="chip" href=${beside({ view: 'similarity', layer: row.name })}>Which of its channels are alike</a>` : nothing}</p>
        ${this._maps(row)}
      </section></div>`;
  }

  _maps(row) {
    if (row.methods['feature-maps'] !== null) return html`<p class="notice">Its maps cannot be shown: ${row.methods['feature-maps']}.</p>`;
    if (row.shape.length !== 3) {
      return html`<p class="notice">This layer gives one number a channel and no map. Channels can still be maximized:
        <a href=${beside({ view: 'channel', layer: row.name, channel: 0 })}>open channel 0</a>.</p>`;
    }
    if (this.error) return problem(this.error);
    if (!this.found) return waiting('Looking through the layer');
    const { maps, layer } = this.found;
    const shape = maps.shape.slice(2);
    const dead = layer.dead_channels[0].length;
    return html`<div class="maps-head"><h2>Its maps, strongest first</h2>${reading(READING.maps)}</div>
      <ul class="maps">${layer.channels[0].map((channel, place) => html`<li><a href=${beside({ view: 'channel', layer: row.name, channel })}
        aria-label="Channel ${channel}, mean ${number(layer.mean[0][place])}"><cs-map .data=${maps.data} .shape=${shape} .place=${place}></cs-map>
        <span><b>${channel}</b> ${number(layer.mean[0][place])}</span></a></li>`)}</ul>
      <p class="row">${layer.channels[0].length < row.shape[0]
        ? html`<button type="button" @click=${() => { this.most = Math.min(row.shape[0], 4 * this.most); }}>Show more of ${row.shape[0]} channels</button>`
        : html`<span class="quiet">All ${row.shape[0]} channels.</span>`}
        ${dead ? html`<span class="quiet">${dead} channels are zero everywhere on this photograph.</span>` : nothing}</p>
      <cs-later summary="All ${row.shape[0]} channels as three colours" .reading=${READING.pca} .alt=${`The channels of ${row.name} as three colours`}
        .wish=${{ operation: 'feature-maps', body: { ...this._body(), channels: 'all' }, query: { view: 'pca' } }}></cs-later>
      <cs-request .wish=${{ operation: 'feature-maps', body: this._body(), query: {} }}></cs-request>`;
  }
}

customElements.define('cs-layer', LayerView);

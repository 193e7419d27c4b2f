/* The page: what is looked at stands in its address; image and network at the side, the view beside them. */

import { facts, key, pictureAt, readOnce } from './api.js';
import { beside, go, href, place } from './address.js';
import { fileOf, remember, upload } from './images.js';
import { Part, html, nothing, percent, problem, waiting } from './parts.js';

const VIEWS = {
  layer: ['Network', 'layer'],
  evidence: ['Evidence', 'evidence'],
  saliency: ['Saliency', 'saliency'],
  occlusion: ['Occlusion', 'occlusion'],
  similarity: ['Similarity', 'similarity'],
  jobs: ['Jobs', 'jobs'],
};
const FREE = new Set(['jobs', 'job']);
/* Views that need no image. */

class App extends Part {
  static properties = {
    at: { state: true }, models: { state: true }, card: { state: true }, predictions: { state: true },
    thumbnail: { state: true }, error: { state: true }, keyAsked: { state: true }, dropping: { state: true },
  };

  constructor() {
    super();
    this.at = place();
    window.addEventListener('hashchange', () => this._moved());
    window.addEventListener('key-needed', () => { this.keyAsked = true; });
    window.addEventListener('paste', (event) => this._take(event, event.clipboardData));
    window.addEventListener('dragover', (event) => { event.preventDefault(); this.dropping = true; });
    window.addEventListener('dragleave', (event) => { if (!event.relatedTarget) this.dropping = false; });
    window.addEventListener('drop', (event) => { this.dropping = false; this._take(event, event.dataTransfer); });
  }

  connectedCallback() {
    super.connectedCallback();
    this._load();
  }

  async _take(event, transfer) {
    const file = fileOf(transfer);
    if (!file) return;
    event.preventDefault();
    await this.take(file);
  }

  /** Upload an image and look at it, at the same place where a view is open. */
  async take(file) {
    try {
      const image = await upload(file);
      const view = this.at.view && !FREE.has(this.at.view) ? this.at.view : 'layer';
      go(href({ ...this.at, view, image }));
    } catch (error) {
      this.error = error;
    }
  }

  _moved() {
    const before = this.at;
    this.at = place();
    this.error = undefined;
    if (before.view !== this.at.view) {
      window.scrollTo(0, 0);
      this.updateComplete.then(() => this.querySelector('main h1, main h2')?.focus());
    }
    if (before.image !== this.at.image || before.model !== this.at.model || FREE.has(before.view)) this._load();
  }

  async _load() {
    const signal = this.begin();
    const { image, model } = this.at;
    this.predictions = undefined;
    this._show(image, signal);
    if (FREE.has(this.at.view)) return;
    try {
      this.models = await readOnce('/v1/models');
      if (!image && this.at.view === '') return;
      const id = model || this.models.default;
      if (this.card?.id !== id) this.card = undefined;
      const card = await readOnce(`/v1/models/${encodeURIComponent(id)}`);
      if (signal.aborted) return;
      this.card = card;
      if (image) {
        remember(image);
        const job = await facts('classify', { image: { id: image }, model: id, top: 5 });
        if (!signal.aborted) this.predictions = job.result.facts;
      }
    } catch (error) {
      if (!signal.aborted) this.error = error;
    }
  }

  async _show(image, signal) {
    if (this._shown === image && this.thumbnail) return;
    this._shown = image;
    this.thumbnail = undefined;
    if (!image) return;
    try {
      const found = await pictureAt(`/v1/images/${image}`, signal);
      if (this._shown === image) this.thumbnail = found.url;
    } catch (error) {
      if (!signal.aborted && this._shown === image) { this.error = error; this._shown = undefined; }
    }
  }

  render() {
    const { view, image } = this.at;
    const start = view === '' || (!image && !FREE.has(view));
    document.title = start ? 'Convscope' : `${VIEWS[view]?.[0] ?? view}${this.at.layer ? ` ${this.at.layer}` : ''} · Convscope`;
    return html`
      <a class="skip" href="#content" @click=${(event) => { event.preventDefault(); this.querySelector('#content').focus(); }}>Skip to the content</a>
      <header>
        <a class="brand" href="#/"><img src="/explorer/icon.svg" alt="" width="28" height="28">Convscope</a>
        <nav aria-label="Views">${Object.entries(VIEWS).map(([name, [label]]) => this._tab(name, label))}</nav>
        <a class="docs" href="/docs">API</a>
      </header>
      ${this.keyAsked ? this._keyField() : nothing}
      <div class=${start || FREE.has(view) ? 'page single' : 'page'}>
        ${start || FREE.has(view) ? nothing : this._aside()}
        <main id="content" tabindex="-1">
          ${problem(this.error)}
          ${start ? this._start() : this._view()}
        </main>
      </div>
      ${this.dropping ? html`<div class="dropping" aria-hidden="true">Drop the image anywhere</div>` : nothing}`;
  }

  _tab(name, label) {
    const { view, image } = this.at;
    const current = view === name || (name === 'layer' && view === 'channel') || (name === 'jobs' && view === 'job');
    if (!image && name !== 'jobs') return nothing;
    const keepLayer = ['layer', 'similarity'].includes(name) ? this.at.layer : undefined;
    return html`<a href=${beside({ view: name, layer: keepLayer })} aria-current=${current ? 'page' : nothing}>${label}</a>`;
  }

  _keyField() {
    const save = (event) => {
      event.preventDefault();
      key.set(new FormData(event.target).get('key'));
      this.keyAsked = false;
      this.error = undefined;
      this._load();
    };
    return html`<form class="key" @submit=${save}>
      <label for="key">This service needs a key</label>
      <input id="key" name="key" type="password" autocomplete="off" required .value=${key.get()}>
      <button class="primary">Use it</button>
      <small>It is kept in this tab until you close it, and sent to this service only.</small>
    </form>`;
  }

  _aside() {
    return html`<aside aria-label="Image and network">
      <div class="image card">
        ${this.thumbnail ? html`<div class="thumbnail"><img src=${this.thumbnail} alt="The photograph">${this._crop()}</div>` : waiting('Loading')}
        <label class="button small">Another image<input type="file" accept="image/*" class="hidden-input" @change=${(event) => event.target.files[0] && this.take(event.target.files[0])}></label>
      </div>
      <div class="card">
        <label class="field" for="model">Network</label>
        ${this._networks()}
        ${this.card ? html`<p class="quiet">${(this.card.parameters / 1e6).toFixed(1)} million weights · ${this.card.layers.length} calls · looks at ${this.card.preprocess.size.join(' × ')} px</p>` : nothing}
      </div>
      <div class="card predictions"><h2 class="minor">What it says it is</h2>${this._predicted()}</div>
    </aside>`;
  }

  _crop() {
    const told = this.predictions?.transforms[0];
    if (!told) return nothing;
    const [height, width] = told.upload_size;
    const [top, left] = told.offset;
    const box = [100 * left / width, 100 * top / height, 100 * told.input_size[1] * told.scale[1] / width, 100 * told.input_size[0] * told.scale[0] / height];
    return html`<span class="crop" title="What the network sees" .style=${`left:${box[0]}%;top:${box[1]}%;width:${box[2]}%;height:${box[3]}%`}></span>`;
  }

  _networks() {
    if (!this.models) return nothing;
    const usable = this.models.models.filter((one) => one.available !== false && !one.problem);
    const chosen = this.at.model || this.models.default;
    const [untrained, trained] = [true, false].map((random) => usable.filter((one) => one.weights.startsWith('random') === random));
    const option = (one) => html`<option value=${one.id} ?selected=${one.id === chosen}>${one.title}</option>`;
    return html`<select id="model" @change=${(event) => go(href({ ...this.at, model: event.target.value, layer: undefined, channel: undefined, job: undefined, target: undefined, targets: undefined, view: this.at.view === 'channel' ? 'layer' : this.at.view }))}>
      <optgroup label="Trained">${trained.map(option)}</optgroup>
      <optgroup label="Random weights, to compare with">${untrained.map(option)}</optgroup>
    </select>`;
  }

  _predicted() {
    if (!this.predictions) return this.error ? nothing : waiting('Looking');
    const found = this.predictions.predictions[0];
    return html`<ol>${found.map((one) => html`<li><span class="bar" .style=${`width:${Math.max(1, 100 * one.probability)}%`}></span><span>${one.name ?? `class ${one.index}`}</span><b>${percent(one.probability)}</b></li>`)}</ol>`;
  }

  _start() {
    import('./views/start.js');
    return html`<cs-start .app=${this} .models=${this.models}></cs-start>`;
  }

  _view() {
    const { view } = this.at;
    if (view === 'jobs' || view === 'job') {
      import('./views/jobs.js');
      return html`<cs-jobs .at=${this.at}></cs-jobs>`;
    }
    if (!this.card) return this.error ? nothing : waiting('Reading the network');
    const told = { at: this.at, card: this.card, predictions: this.predictions };
    import(`./views/${VIEWS[view] || view === 'channel' ? view : 'layer'}.js`);
    switch (view) {
      case 'channel': return html`<cs-channel .told=${told}></cs-channel>`;
      case 'evidence': return html`<cs-evidence .told=${told}></cs-evidence>`;
      case 'saliency': return html`<cs-saliency .told=${told}></cs-saliency>`;
      case 'occlusion': return html`<cs-occlusion .told=${told}></cs-occlusion>`;
      case 'similarity': return html`<cs-similarity .told=${told}></cs-similarity>`;
      default: return html`<cs-layer .told=${told}></cs-layer>`;
    }
  }
}

customElements.define('cs-app', App);

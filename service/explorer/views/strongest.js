/* The images of a set that excite a channel most: choose a set or upload one, and have it looked through. */

import { read, readOnce, submit } from '../api.js';
import { beside, go, place } from '../address.js';
import { Part, html, nothing, problem } from '../parts.js';
import { READING } from '../reading.js';
import '../live.js';

const SHOWN = 9;

/** Properties: `card` of the network, `row` of the layer, `channel`, `job` that looked through a set. */
class Strongest extends Part {
  static properties = { card: {}, row: {}, channel: {}, job: {}, offered: { state: true }, sets: { state: true }, chosen: { state: true }, busy: { state: true }, error: { state: true } };

  constructor() {
    super();
    readOnce('/v1/operations').then(({ operations }) => {
      this.offered = operations.some((one) => one.name === 'top-activations');
      if (this.offered) this._list();
    }).catch((error) => { this.error = error; });
  }

  async _list() {
    try {
      this.sets = (await read('/v1/image-sets?limit=50')).image_sets;
      this.chosen ??= this.sets[0]?.id;
    } catch (error) {
      this.error = error;
    }
  }

  render() {
    if (!this.offered || this.row.methods['top-activations'] !== null) return nothing;
    return html`<section class="card" aria-labelledby="strongest-title">
      <h2 class="title" id="strongest-title">What excites it most in a set of images</h2>
      ${this.sets?.length
        ? html`<div class="row"><label>Set <select @change=${(event) => { this.chosen = event.target.value; }}>${this.sets.map((one) => html`<option value=${one.id} ?selected=${one.id === this.chosen}>${one.images} images of ${one.created_at ? new Date(one.created_at).toLocaleDateString() : 'before'}</option>`)}</select></label>
            <button type="button" class=${this.job ? '' : 'primary'} ?disabled=${this.busy} @click=${this._look}>Look through it</button></div>`
        : nothing}
      <p class="quiet"><label class="button small">Upload a set<input type="file" multiple accept="image/*,.zip" class="hidden-input" ?disabled=${this.busy} @change=${this._upload}></label>
        Several images, or a zip of them.</p>
      ${problem(this.error)}
      ${this.job ? html`<cs-live .job=${this.job} heading="Its strongest" .reading=${READING.top} alt="The patches of the set that excite channel ${this.channel} most, strongest first"></cs-live>` : nothing}
    </section>`;
  }

  async _upload(event) {
    const files = [...event.target.files];
    if (!files.length) return;
    await this._try(async () => {
      const body = new FormData();
      for (const file of files) body.append('image', file, file.name);
      this.chosen = (await read('/v1/image-sets', { method: 'POST', body })).id;
      await this._list();
    });
  }

  _look() {
    return this._try(async () => {
      const body = { model: this.card.id, image_set: this.chosen, layer: this.row.name, channels: [this.channel], k: SHOWN };
      const { id } = await submit('top-activations', body);
      go(beside({ ...place(), sweep: id }));
    });
  }

  async _try(work) {
    this.busy = true;
    this.error = undefined;
    try {
      await work();
    } catch (error) {
      this.error = error;
    }
    this.busy = false;
  }
}

customElements.define('cs-strongest', Strongest);

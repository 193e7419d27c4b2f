/* Where one begins: an image to drop, paste, choose or photograph, or one of four; and what there is to see. */

import { go, href, place } from '../address.js';
import { SAMPLES, uploadSample } from '../images.js';
import { Part, html, nothing, problem } from '../parts.js';

class Start extends Part {
  static properties = { app: {}, models: {}, busy: { state: true }, error: { state: true } };

  render() {
    const choose = (event) => event.target.files[0] && this.app.take(event.target.files[0]);
    return html`<section class="start">
      <h1 tabindex="-1">See what a network sees</h1>
      <p class="lead">Give it a photograph, look into every layer, and find out what each channel looks for and where the evidence lies.</p>
      ${problem(this.error)}
      <div class="drop card">
        <p><b>Drop a photograph here</b>, paste one, or</p>
        <p class="choices">
          <label class="button primary">Choose a file<input type="file" accept="image/*,.heic,.heif,.avif" class="hidden-input" data-choose @change=${choose}></label>
          <label class="button camera">Take a photograph<input type="file" accept="image/*" capture="environment" class="hidden-input" @change=${choose}></label>
        </p>
        <p class="quiet">It goes to this service and to nobody else.</p>
      </div>
      <h2 class="minor">Or take one of these</h2>
      <ul class="samples">${SAMPLES.map((sample) => html`<li><button type="button" ?disabled=${this.busy} @click=${() => this._take(sample.name)}>
        <img src="/explorer/samples/${sample.name}-small.jpg" alt="" width="200" height="200"><span>${sample.title}</span></button><small>${sample.credit}</small></li>`)}</ul>
      <ul class="offers">
        <li><b>Layers</b> Every map of every layer, strongest first; each opens its channel’s page.</li>
        <li><b>Channels</b> What excites a channel: its map, the pixels behind it, and a picture made from noise, live.</li>
        <li><b>Evidence</b> Thirteen class activation maps side by side, saliency, and a window that hides parts.</li>
        <li><b>Similarity</b> Which channels and which layers answer alike, as a matrix to walk through.</li>
      </ul>
      ${this.models ? html`<p class="quiet">${this.models.models.filter((one) => one.available).length} networks are at hand.</p>` : nothing}
    </section>`;
  }

  async _take(name) {
    this.busy = true;
    this.error = undefined;
    try {
      const image = await uploadSample(name);
      go(href({ ...place(), view: 'layer', image }));
    } catch (error) {
      this.error = error;
    }
    this.busy = false;
  }
}

customElements.define('cs-start', Start);

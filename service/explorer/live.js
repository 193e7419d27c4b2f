/* A job as it goes: state, progress, preview and loss curve live, cancel, and its picture when it is finished. */

import { array, events, jobAt, pictureAt, request } from './api.js';
import { Part, html, nothing, number, problem } from './parts.js';
import { READING } from './reading.js';
import './curve.js';
import './figure.js';

const WORDS = {
  queued: 'Waiting for a worker', running: 'Running', succeeded: 'Finished', failed: 'Failed',
  cancelled: 'Cancelled', expired: 'Expired',
};
const OVER = new Set(['succeeded', 'failed', 'cancelled', 'expired']);

/**
 * Properties: `job` is the id; `reading` and `heading` are the finished picture's words; `quiet` leaves the picture to
 * whoever listens for `finished`, which is sent with the job.
 */
class Live extends Part {
  static properties = {
    job: {}, heading: {}, reading: {}, alt: {}, quiet: { type: Boolean },
    told: { state: true }, progress: { state: true }, preview: { state: true }, losses: { state: true },
    lost: { state: true }, error: { state: true },
  };

  willUpdate(changed) {
    if (changed.has('job') && this.job) this._follow();
  }

  async _follow() {
    const signal = this.begin();
    this.told = undefined;
    this.progress = undefined;
    this.losses = [];
    this.lost = false;
    this.error = undefined;
    this._showPreview(undefined);
    try {
      this.told = await jobAt(this.job, { signal });
      this.progress = this.told.progress;
      if (!OVER.has(this.told.state)) await this._listen(signal);
      if (this.told.state === 'succeeded') {
        if ('loss' in this.told.result.arrays) this.losses = await this._curve(signal);
        this.dispatchEvent(new CustomEvent('finished', { detail: this.told, bubbles: true }));
      }
    } catch (error) {
      if (!signal.aborted) this.error = error;
    }
  }

  async _listen(signal) {
    for await (const { name, data } of events(this.job, signal)) {
      this.lost = name === 'lost';
      // The end is told with its result, once that is read.
      if (name === 'state' && !OVER.has(data.state)) this.told = { ...this.told, state: data.state };
      if (name === 'reset') this.progress = data.progress;
      if (name === 'progress') this._progressed(data);
      if (name === 'preview') this._preview(data.href, signal);
      if (name === 'done') break;
    }
    if (!signal.aborted) this.told = await jobAt(this.job, { signal });
  }

  _progressed(data) {
    this.progress = data;
    if (data.losses?.length && data.losses[0] !== null && data.done > (this.losses.at(-1)?.[0] ?? 0)) {
      this.losses = [...this.losses, [data.done, data.losses[0]]];
    }
  }

  async _curve(signal) {
    const { shape, data } = await array(this.told, 'loss', signal);
    return Array.from({ length: shape[1] }, (_, step) => [step + 1, data[step]]).filter(([, value]) => Number.isFinite(value));
  }

  async _preview(href, signal) {
    try {
      const found = await pictureAt(href, signal);
      this._showPreview(found.url);
    } catch {
      // A preview that is gone is followed by the next one.
    }
  }

  _showPreview(url) {
    if (this.preview) URL.revokeObjectURL(this.preview);
    this.preview = url;
  }

  async _cancel() {
    try {
      await request(`/v1/jobs/${this.job}/cancel`, { method: 'POST' });
      this.told = { ...this.told, cancelling: true };
    } catch (error) {
      if (error.kind !== 'already-finished') this.error = error;
    }
  }

  render() {
    if (!this.told) return this.error ? problem(this.error) : nothing;
    const { state } = this.told;
    const over = OVER.has(state);
    return html`<div class="live" data-state=${state}>
      ${this.error ? problem(this.error) : nothing}
      ${over ? this._ended() : this._running()}
      ${this.losses.length > 1
        ? html`<figure class="plain"><cs-curve .points=${this.losses} label="Objective by step"></cs-curve>
            <figcaption><p class="how">${READING.loss.how}</p><p class="caution"><span class="tag">Caution</span> ${READING.loss.caution}</p></figcaption></figure>`
        : nothing}
    </div>`;
  }

  _running() {
    const { done = 0, total = 1, message = '' } = this.progress ?? {};
    const share = total ? done / total : 0;
    const doing = this.told.cancelling ? 'Cancelling' : WORDS[this.told.state];
    return html`
      ${this.preview ? html`<img class="preview" src=${this.preview} alt="How far the picture is">` : nothing}
      <div class="progress-row">
        <progress max="1" .value=${share} aria-label="Progress"></progress>
        <button type="button" class="small" ?disabled=${this.told.cancelling} @click=${this._cancel}>Cancel</button>
      </div>
      <p class="quiet" role="status">${doing}${total > 1 ? ` · ${number(done, 6)} of ${number(total, 6)}` : ''}${this.lost ? ' · connection lost, coming back' : ''}</p>
      ${message ? html`<p class="quiet">${message}</p>` : nothing}
      <cs-request .wish=${this._wish()} .job=${this.job}></cs-request>`;
  }

  _ended() {
    const { state, error, result } = this.told;
    if (state !== 'succeeded') {
      return html`<p class="ended">${WORDS[state]}.</p>${error ? problem({ message: error.detail, document: error }) : nothing}
        <cs-request .wish=${this._wish()} .job=${this.job}></cs-request>`;
    }
    if (this.quiet) return nothing;
    return html`${result.pictures.slice(0, 24).map((one) => html`<cs-figure .wish=${this._wish(result.pictures.length > 1 ? one.name : undefined)} .href=${one.href}
      .job=${this.job} .heading=${this.heading ?? one.name} .alt=${this.alt ?? one.name} .reading=${this.reading}></cs-figure>`)}`;
  }

  _wish(pick) {
    const body = Object.fromEntries(Object.entries(this.told.request).filter(([name, value]) => value !== null && !(Array.isArray(value) && !value.length) && name !== 'layers'));
    if (this.told.request.layers?.length) body.layers = this.told.request.layers;
    return { operation: this.told.operation, body, query: pick ? { pick } : {} };
  }
}

customElements.define('cs-live', Live);

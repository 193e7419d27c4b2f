/* The caller's jobs, as they go; and one job on a page of its own. */

import { read, request } from '../api.js';
import { href } from '../address.js';
import { Part, html, nothing, problem, waiting } from '../parts.js';
import { READING } from '../reading.js';
import '../live.js';

const EVERY_MS = 1500;
const WORDS = { queued: 'waiting', running: 'running', succeeded: 'finished', failed: 'failed', cancelled: 'cancelled', expired: 'expired' };

class JobsView extends Part {
  static properties = { at: {}, jobs: { state: true }, error: { state: true } };

  connectedCallback() {
    super.connectedCallback();
    this._timer = setInterval(() => { if (!document.hidden && !this.at?.job) this._look(); }, EVERY_MS);
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    clearInterval(this._timer);
  }

  willUpdate(changed) {
    if (changed.has('at') && !this.at.job) this._look();
  }

  async _look() {
    try {
      this.jobs = (await read('/v1/jobs?limit=40')).jobs;
      this.error = undefined;
    } catch (error) {
      this.error = error;
    }
  }

  async _cancel(id) {
    try {
      await request(`/v1/jobs/${id}/cancel`, { method: 'POST' });
    } catch (error) {
      if (error.kind !== 'already-finished') this.error = error;
    }
    this._look();
  }

  render() {
    if (this.at.job) return this._one();
    return html`<h1 tabindex="-1">Jobs</h1>
      <p class="lead">Everything asked for in the last day, newest first. Long work goes on when this page is closed.</p>
      ${problem(this.error)}
      ${!this.jobs ? waiting('Reading') : this.jobs.length ? html`<ul class="jobs">${this.jobs.map((job) => this._line(job))}</ul>` : html`<p class="notice">None yet.</p>`}`;
  }

  _line(job) {
    const going = ['queued', 'running'].includes(job.state);
    const { done, total } = job.progress;
    const what = [job.request.model, job.request.layer ?? job.request.layers?.[0] ?? job.request.objective?.[0]?.layer].filter(Boolean).join(' · ');
    return html`<li class="card" data-job=${job.id}><a href=${href({ view: 'job', job: job.id })}><b>${job.operation}</b> <span class="quiet">${what}</span></a>
      <span class="state ${job.state}">${job.progress.message === 'cancelling' ? 'cancelling' : WORDS[job.state]}</span>
      <time datetime=${job.created_at}>${new Date(job.created_at).toLocaleTimeString()}</time>
      ${going ? html`<progress max="1" .value=${total ? done / total : 0} aria-label="Progress of ${job.operation}"></progress>
        <button type="button" class="small" @click=${() => this._cancel(job.id)}>Cancel</button>` : nothing}</li>`;
  }

  _one() {
    const words = { maximize: READING.maximize, cka: READING.similarity, cam: READING.cam, saliency: READING.saliency, occlusion: READING.occlusion, deconv: READING.projection };
    const set = (event) => { this.operation = event.detail.operation; this.requestUpdate(); };
    return html`<p class="crumbs"><a href="#/jobs">Jobs</a> / ${this.at.job}</p>
      <h1 tabindex="-1">${this.operation ? `A ${this.operation} job` : 'A job'}</h1>
      <cs-live .job=${this.at.job} .reading=${words[this.operation]} @finished=${set}></cs-live>`;
  }
}

customElements.define('cs-jobs', JobsView);

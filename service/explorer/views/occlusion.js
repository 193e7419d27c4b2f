/* Occlusion: a window that hides parts of the photograph, moved by hand over what the network said at each place. */

import { array, facts, pictureAt } from '../api.js';
import { beside, go } from '../address.js';
import { Part, html, nothing, percent, problem, reading, waiting } from '../parts.js';
import { READING } from '../reading.js';
import { paint, range } from '../colors.js';
import { classField, className, classesOf } from './choices.js';
import '../figure.js';

class OcclusionView extends Part {
  static properties = { told: {}, found: { state: true }, error: { state: true }, at: { state: true }, photograph: { state: true } };

  willUpdate(changed) {
    if (!changed.has('told')) return;
    const [target] = classesOf(this.told, 1);
    if (target === undefined) return;
    const wanted = JSON.stringify([this._body(target), this.told.at.image]);
    if (wanted !== this._wanted) {
      this._wanted = wanted;
      this._look(this._body(target));
    }
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    if (this.photograph) URL.revokeObjectURL(this.photograph);
  }

  _body(target) {
    const { at, card } = this.told;
    const side = Math.min(...card.preprocess.size);
    const window = Math.max(1, Math.round(side * Number(at.window || 0.25)));
    return { image: { id: at.image }, model: card.id, target, window: [window, window] };
  }

  async _look(body) {
    const signal = this.begin();
    const asked = this._wanted;
    this.found = undefined;
    this.error = undefined;
    try {
      const [job, photograph] = await Promise.all([facts('occlusion', body), pictureAt(`/v1/images/${body.image.id}`, signal)]);
      const { data, shape } = await array(job, 'probability', signal);
      if (asked !== this._wanted) return;
      this.photograph = photograph.url;
      const told = job.result.facts;
      this.found = { job, told, data, rows: shape[1], columns: shape[2] };
      this.at = [told.lowest_probability.row, told.lowest_probability.column];
    } catch (error) {
      if (asked === this._wanted && !signal.aborted) this.error = error;
    }
  }

  updated() {
    const canvas = this.querySelector('canvas');
    if (!canvas || !this.found) return;
    const { data, rows, columns, told } = this.found;
    const { from, to } = range(data, 0, rows * columns);
    const whole = told.baseline.probability;
    const reach = Math.max(whole - from, to - whole, 1e-6);
    paint(canvas, data, columns, rows, { from: whole - reach, to: whole + reach, map: 'RdBu_r' });
  }

  render() {
    const { at, card, predictions } = this.told;
    const [target] = classesOf(this.told, 1);
    const share = Number(at.window || 0.25);
    const change = (parts) => go(beside({ ...at, ...parts }));
    return html`<h1 tabindex="-1">What happens when a part is hidden</h1>
      ${reading(READING.occlusion)}
      <div class="row"><span>For</span>${(predictions?.predictions[0] ?? []).slice(0, 5).map((one) => html`<button type="button" class="chip" aria-pressed=${one.index === target}
        @click=${() => change({ targets: one.index })}>${one.name ?? one.index}</button>`)}
        ${classField(card, 'occlusion-class', (index) => change({ targets: index }))}
        <label class="row">Window <select @change=${(event) => change({ window: event.target.value })}>${[[0.125, 'an eighth'], [0.25, 'a quarter'], [0.375, 'three eighths'], [0.5, 'half']].map(([value, words]) => html`<option value=${value} ?selected=${value === share}>${words} of the side</option>`)}</select></label></div>
      ${this.error ? problem(this.error) : this.found ? this._shown(target) : waiting('Hiding one place after another')}`;
  }

  _shown(target) {
    const { told, rows, columns, data, job } = this.found;
    const [row, column] = this.at;
    const value = data[row * columns + column];
    const box = this._box(row, column);
    const change = value - told.baseline.probability;
    const name = told.target_name ?? className(this.told.card, target);
    const place = `row ${row + 1} of ${rows}, column ${column + 1} of ${columns}`;
    return html`<div class="pair">
      <section class="card" aria-labelledby="window-title"><h2 class="title" id="window-title">Under the window</h2>
        <div class="stage" tabindex="0" role="slider" aria-label="Window that hides a part; arrow keys move it" aria-valuemin="0" aria-valuemax=${rows * columns - 1}
          aria-valuenow=${row * columns + column} aria-valuetext="${place}: ${percent(value)}" @pointermove=${this._point} @pointerdown=${this._point} @keydown=${this._step}>
          <img src=${this.photograph} alt="The photograph">
          <span class="hider" .style=${this._css(box)}></span>
        </div>
        <p class="big" role="status"><b>${percent(value)}</b> ${name} <span class=${change < 0 ? 'down' : 'up'}>${change < 0 ? '−' : '+'}${Math.abs(100 * change).toFixed(1)} points</span></p>
        <p class="quiet">Whole photograph: ${percent(told.baseline.probability)}. Move the window with the pointer or the arrow keys; here it hides ${place}.</p>
      </section>
      <section class="card" aria-labelledby="places-title"><h2 class="title" id="places-title">At every place</h2>
        <div class="cells" .style=${`aspect-ratio:${columns}/${rows}`}><canvas role="img" aria-label="Probability of ${name} by the place that is hidden; lowest ${percent(told.lowest_probability.value)} at row ${told.lowest_probability.row + 1}, column ${told.lowest_probability.column + 1}" @pointermove=${this._cell} @pointerdown=${this._cell}></canvas>
          <span class="mark" .style=${`left:${100 * column / columns}%;top:${100 * row / rows}%;width:${100 / columns}%;height:${100 / rows}%`}></span></div>
        <p class="quiet">Blue: the probability falls when this place is hidden; red: it rises; white: as on the whole photograph. Lowest ${percent(told.lowest_probability.value)}.</p>
      </section>
      <cs-figure heading="To print" .wish=${{ operation: 'occlusion', body: this._body(target), query: { pick: 'probability' } }} .href=${job.result.pictures[0].href} .job=${job.id}
        .reading=${READING.occlusion} .alt=${`Probability of ${name} while a window hides each place`}></cs-figure></div>`;
  }

  /** The window at a place in shares of the photograph: left, top, right, bottom. */
  _box(row, column) {
    const { told } = this.found;
    const { upload_size: [height, width], scale, offset, input_size: [inHeight, inWidth] } = told.transform;
    const top = row * told.stride[0];
    const left = column * told.stride[1];
    const y = [top, Math.min(inHeight, top + told.window[0])].map((each) => (each * scale[0] + offset[0]) / height);
    const x = [left, Math.min(inWidth, left + told.window[1])].map((each) => (each * scale[1] + offset[1]) / width);
    return [x[0], y[0], x[1], y[1]].map((each) => Math.min(1, Math.max(0, each)));
  }

  _css([left, top, right, bottom]) {
    return `left:${100 * left}%;top:${100 * top}%;width:${100 * (right - left)}%;height:${100 * (bottom - top)}%`;
  }

  _move(row, column) {
    const { rows, columns } = this.found;
    this.at = [Math.min(rows - 1, Math.max(0, Math.round(row))), Math.min(columns - 1, Math.max(0, Math.round(column)))];
  }

  _point(event) {
    const box = event.currentTarget.getBoundingClientRect();
    const { told } = this.found;
    const { upload_size: [height, width], scale, offset } = told.transform;
    const y = (((event.clientY - box.top) / box.height) * height - offset[0]) / scale[0];
    const x = (((event.clientX - box.left) / box.width) * width - offset[1]) / scale[1];
    this._move((y - told.window[0] / 2) / told.stride[0], (x - told.window[1] / 2) / told.stride[1]);
  }

  _cell(event) {
    const box = event.currentTarget.getBoundingClientRect();
    this._move(((event.clientY - box.top) / box.height) * this.found.rows - 0.5, ((event.clientX - box.left) / box.width) * this.found.columns - 0.5);
  }

  _step(event) {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!by) return;
    event.preventDefault();
    this._move(this.at[0] + by[0], this.at[1] + by[1]);
  }
}

customElements.define('cs-occlusion', OcclusionView);

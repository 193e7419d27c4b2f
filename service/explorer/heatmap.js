/* A matrix as a heat map on a canvas, walked through by pointer or arrow keys. */

import { Part, html, nothing, number } from './parts.js';
import { MAPS, paint } from './colors.js';

/** Properties: `values` flat, `rows` and `columns` as labels, `label` of all. Sends `walked` with { row, column }. */
class HeatMap extends Part {
  static properties = { values: {}, rows: {}, columns: {}, label: {}, at: { state: true } };

  willUpdate(changed) {
    if (changed.has('values')) this.at = undefined;
  }

  updated(changed) {
    if (changed.has('values')) paint(this.querySelector('canvas'), this.values, this.columns.length, this.rows.length, { from: 0, to: 1, map: 'viridis' });
  }

  render() {
    const [height, width] = [this.rows.length, this.columns.length];
    const [row, column] = this.at ?? [];
    const told = this.at ? `${this.rows[row]} and ${this.columns[column]}: ${number(this.values[row * width + column])}` : 'nothing chosen';
    return html`<div class="heat">
      <div class="cells" tabindex="0" role="slider" aria-label="${this.label}; arrow keys walk through it" aria-valuemin="0" aria-valuemax=${width * height - 1}
        aria-valuenow=${this.at ? row * width + column : 0} aria-valuetext=${told} @pointermove=${this._point} @pointerdown=${this._point} @keydown=${this._step} @focus=${() => this.at ?? this._move(0, Math.min(1, width - 1))}
        .style=${`aspect-ratio:${width}/${height}`}>
        <canvas aria-hidden="true"></canvas>
        ${this.at ? html`<span class="mark" .style=${`left:${100 * column / width}%;top:${100 * row / height}%;width:${100 / width}%;height:${100 / height}%`}></span>` : nothing}
      </div>
      <div class="scale" aria-hidden="true"><span>0</span><i .style=${`background:linear-gradient(to right,${stops()})`}></i><span>1</span></div>
    </div>`;
  }

  _move(row, column) {
    this.at = [Math.min(this.rows.length - 1, Math.max(0, row)), Math.min(this.columns.length - 1, Math.max(0, column))];
    this.dispatchEvent(new CustomEvent('walked', { detail: { row: this.at[0], column: this.at[1] } }));
  }

  _point(event) {
    const box = event.currentTarget.getBoundingClientRect();
    const row = Math.floor(((event.clientY - box.top) / box.height) * this.rows.length);
    const column = Math.floor(((event.clientX - box.left) / box.width) * this.columns.length);
    if (!this.at || row !== this.at[0] || column !== this.at[1]) this._move(row, column);
  }

  _step(event) {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!by) return;
    event.preventDefault();
    const [row, column] = this.at ?? [0, 0];
    this._move(row + by[0], column + by[1]);
  }
}

const stops = () => Array.from({ length: 9 }, (_, place) => {
  const level = 3 * Math.round((255 * place) / 8);
  return `rgb(${MAPS.viridis.slice(level, level + 3).join(',')})`;
}).join(',');

customElements.define('cs-heat', HeatMap);

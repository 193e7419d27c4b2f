/* A curve of numbers by uPlot, which is loaded when the first curve is drawn. */

import { Part, html, number } from './parts.js';

let loading;

function plotter() {
  loading ??= new Promise((resolve, reject) => {
    const style = document.createElement('link');
    style.rel = 'stylesheet';
    style.href = '/explorer/vendor/uplot/uPlot.min.css';
    const script = document.createElement('script');
    script.src = '/explorer/vendor/uplot/uPlot.iife.min.js';
    script.onload = () => resolve(window.uPlot);
    script.onerror = () => reject(new Error('uPlot could not be loaded'));
    document.head.append(style, script);
  });
  return loading;
}

/** Properties: `points` as [x, y], `label` of the values. */
class Curve extends Part {
  static properties = { points: {}, label: {} };

  render() {
    const last = this.points.at(-1);
    return html`<div class="curve" role="img" aria-label="${this.label}: from ${number(this.points[0][1])} to ${number(last[1])} at step ${last[0]}"></div>`;
  }

  async updated() {
    const data = [this.points.map(([x]) => x), this.points.map(([, y]) => y)];
    if (this._plot) {
      this._plot.setData(data);
      return;
    }
    const Plot = await plotter();
    const box = this.querySelector('.curve');
    if (this._plot || !box?.clientWidth) return;
    const ink = getComputedStyle(this).getPropertyValue('--ink-soft');
    const line = getComputedStyle(this).getPropertyValue('--accent');
    const axis = { stroke: ink, grid: { stroke: getComputedStyle(this).getPropertyValue('--edge'), width: 1 }, ticks: { show: false }, font: '11px system-ui' };
    this._plot = new Plot(
      {
        width: box.clientWidth,
        height: 150,
        scales: { x: { time: false } },
        legend: { show: false },
        cursor: { drag: { x: false, y: false } },
        series: [{}, { stroke: line, width: 2, points: { show: false } }],
        axes: [axis, { ...axis, size: 52 }],
      },
      [this.points.map(([x]) => x), this.points.map(([, y]) => y)],
      box,
    );
    this._resize = new ResizeObserver(() => this._plot.setSize({ width: box.clientWidth, height: 150 }));
    this._resize.observe(box);
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    this._resize?.disconnect();
    this._plot?.destroy();
    this._plot = undefined;
  }
}

customElements.define('cs-curve', Curve);

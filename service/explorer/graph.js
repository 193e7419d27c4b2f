/* The network's graph: stages to open, calls to choose; placed by dagre in a worker, drawn as buttons over lines. */

import { beside, go } from './address.js';
import { Part, html, nothing, sides } from './parts.js';
import { parts, tree, visible, wayTo } from './tree.js';
import { svg } from './vendor/lit/lit-element.js';

const WIDTH = 188;
const SMALLEST = 0.68;
const HEIGHT = 62;

const worker = new Worker(new URL('./layout-worker.js', import.meta.url), { type: 'module' });
const answers = new Map();
let asked = 0;
worker.onmessage = ({ data }) => {
  answers.get(data.id)?.(data);
  answers.delete(data.id);
};

function placed(nodes, edges) {
  asked += 1;
  worker.postMessage({ id: asked, nodes, edges });
  return new Promise((resolve) => { answers.set(asked, resolve); });
}

const FAMILY = [
  [/conv|linear/i, 'weights'],
  [/pool/i, 'pool'],
  [/norm|relu|silu|gelu|act|swish|sigmoid/i, 'shape'],
];

/** Properties: `card` of the network, `layer` that is chosen. */
class NetworkGraph extends Part {
  static properties = { card: {}, layer: {}, open: { state: true }, drawn: { state: true }, wide: { state: true }, room: { state: true } };

  willUpdate(changed) {
    if (changed.has('card') && this.card) {
      this._stages = tree(this.card.layers);
      this.open = new Set(wayTo(this._stages, this.layer));
    } else if (changed.has('layer') && this.layer) {
      const way = wayTo(this._stages, this.layer).filter((id) => !this.open.has(id));
      if (way.length) this.open = new Set([...this.open, ...way]);
    }
    if ((changed.has('card') || changed.has('open')) && this._stages) this._place();
  }

  firstUpdated() {
    this._watch = new ResizeObserver(() => { this.room = this.querySelector('.graph')?.clientWidth; });
    this._watch.observe(this.parentElement);
  }

  disconnectedCallback() {
    super.disconnectedCallback();
    this._watch?.disconnect();
  }

  updated(changed) {
    this.closest('.network')?.classList.toggle('wide', Boolean(this.wide));
    if (!changed.has('drawn')) return;
    const opened = this._opened && this.querySelector(`[data-parent="${CSS.escape(this._opened)}"]`);
    if (opened) opened.querySelector('.pick').focus({ preventScroll: true });
    const chosen = this.querySelector('.node.chosen');
    const target = opened || (chosen && chosen.dataset.id !== this._seen && chosen);
    this._opened = undefined;
    if (chosen) this._seen = chosen.dataset.id;
    if (target) this._show(target);
  }

  /** Bring a node to the middle. */
  _show(node) {
    const frame = this.querySelector('.graph');
    const [inner, outer] = [node.getBoundingClientRect(), frame.getBoundingClientRect()];
    frame.scrollBy(inner.left - outer.left - (outer.width - inner.width) / 2, inner.top - outer.top - outer.height / 2.5);
  }

  async _place() {
    const { nodes, edges } = visible(this._stages, this.open);
    const all = [{ id: '@input', label: 'image', row: { shape: [3, ...this.card.preprocess.size] }, children: [] }, ...nodes];
    const found = await placed(all.map(({ id }) => ({ id, width: WIDTH, height: HEIGHT })), edges);
    this.drawn = { ...found, nodes: all };
  }

  render() {
    if (!this.drawn) return html`<div class="graph empty"></div>`;
    const { width, height, lines, nodes, places } = this.drawn;
    const scale = Math.min(1, Math.max(SMALLEST, (this.room || width) / width));
    const size = `width:${width}px;height:${height}px;transform:scale(${scale})`;
    return html`<button type="button" class="small widen" aria-pressed=${Boolean(this.wide)} @click=${() => { this.wide = !this.wide; }}>${this.wide ? 'Beside the maps' : 'Widen'}</button>
      <div class="graph" tabindex="0" role="region" aria-label="Graph of ${this.card.title}">
      <div class="canvas-room" .style=${`width:${width * scale}px;height:${height * scale}px`}><div class="canvas" .style=${size}>
        <svg width=${width} height=${height} aria-hidden="true">${lines.map((points) => svg`<path d=${curve(points)}></path>`)}</svg>
        ${nodes.map((node) => this._node(node, places[node.id]))}
      </div></div>
    </div>`;
  }

  _node(node, at) {
    const { row } = node;
    const style = `left:${at.x - WIDTH / 2}px;top:${at.y - HEIGHT / 2}px;width:${WIDTH}px;height:${HEIGHT}px`;
    if (node.id === '@input') {
      return html`<div class="node input" .style=${style}><b>image</b><small>${sides(row.shape)}</small></div>`;
    }
    const chosen = row.name === this.layer && Boolean(!node.children.length || node.own || node.stage);
    const family = node.children.length ? 'block' : FAMILY.find(([pattern]) => pattern.test(row.kind))?.[1] ?? 'other';
    const field = row.receptive_field ? html`<small>sees ${sides(row.receptive_field.size)} px</small>` : nothing;
    const name = node.stage || node.joined ? node.label : within(node);
    const opened = node.parent && this.open.has(node.parent.id);
    return html`<div class="node ${family} ${chosen ? 'chosen' : ''}" data-id=${node.id} data-parent=${node.parent?.id ?? nothing} .style=${style}>
      <button type="button" class="pick" aria-pressed=${chosen} title=${row.name} @click=${() => go(beside({ view: 'layer', layer: row.name }))}>
        <b>${name}</b><small>${node.children.length ? `${parts(node)} parts` : row.kind} · ${sides(row.shape)}</small>${field}
      </button>
      ${node.children.length
        ? html`<button type="button" class="fold" aria-label="Open ${node.label}" title="Open" @click=${() => this._toggle(node.id)}>+</button>`
        : nothing}
      ${opened
        ? html`<button type="button" class="fold close" aria-label="Close ${node.parent.label}" title="Close ${node.parent.label}" @click=${() => this._toggle(node.parent.id)}>−</button>`
        : nothing}
    </div>`;
  }

  _toggle(id) {
    const open = new Set(this.open);
    if (!open.delete(id)) {
      open.add(id);
      this._opened = id;
    }
    this.open = open;
  }
}

const MOST_LETTERS = 20;

/** A node's name; below the block that it stands in, where the whole is too long. */
function within({ id, parent }) {
  if (id.length <= MOST_LETTERS) return id;
  return parent && id.startsWith(`${parent.id}.`) ? id.slice(parent.id.length + 1) : id;
}

function curve(points) {
  const [first, ...rest] = points;
  let path = `M${first.x},${first.y}`;
  for (let at = 0; at < rest.length - 1; at += 1) {
    const end = at === rest.length - 2 ? rest.at(-1) : { x: (rest[at].x + rest[at + 1].x) / 2, y: (rest[at].y + rest[at + 1].y) / 2 };
    path += `Q${rest[at].x},${rest[at].y} ${end.x},${end.y}`;
  }
  return rest.length === 1 ? `${path}L${rest[0].x},${rest[0].y}` : path;
}

customElements.define('cs-graph', NetworkGraph);

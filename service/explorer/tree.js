/* A layer table as a tree to open and close: stages of one map size, blocks in them, calls in those; and its edges. */

const QUIET = /^(Identity|Dropout\w*|StochasticDepth|DropPath)$/;
const MOST_SIZES = 3;

const plain = (name) => name.split('#')[0];
const size = (shape) => (shape.length === 3 ? `${shape[1]} × ${shape[2]}` : shape.length === 1 ? 'numbers' : `${shape.join(' × ')}`);

/** A node of the tree: { id, label, row (the call whose output it shows), children }. */
function nested(layers) {
  const root = { id: '', label: '', children: [], own: null };
  const byPath = new Map([['', root]]);
  const at = (path) => {
    if (byPath.has(path)) return byPath.get(path);
    const parent = at(path.split('.').slice(0, -1).join('.'));
    const node = { id: path, label: path.split('.').pop(), children: [], own: null };
    byPath.set(path, node);
    parent.children.push(node);
    return node;
  };
  for (const row of layers) {
    if (row.container) {
      at(plain(row.name)).own = row;
    } else {
      const path = plain(row.name);
      const parent = at(path.split('.').slice(0, -1).join('.'));
      parent.children.push({ id: row.name, label: row.name.slice(parent.id.length + (parent.id ? 1 : 0)), children: [], own: row });
    }
  }
  settle(root);
  return root;
}

/** Give each node the call that it shows: its own, else its last child's; and order children as they run. */
function settle(node) {
  node.children.forEach(settle);
  node.children.sort((a, b) => a.row.order - b.row.order);
  node.row = node.own ?? node.children.at(-1)?.row ?? { name: '', order: -1, shape: [], inputs: [] };
}

/** The parts of a network that are shown on their own: containers of many map sizes (`features`) give way to theirs. */
function units(node) {
  const sizes = new Set(node.children.map((child) => size(child.row.shape)));
  const wide = node.id === '' || (sizes.size >= MOST_SIZES && node.children.length > MOST_SIZES);
  return node.children.length && wide ? node.children.flatMap(units) : [node];
}

/** Calls and blocks in a node that are shown when it is opened. */
export const parts = (node) => node.children.filter((child) => child.children.length || !QUIET.test(child.row.kind)).length;

/** The tree: stages of consecutive units with maps of one size. */
export function tree(layers) {
  const stages = [];
  for (const unit of units(nested(layers))) {
    const last = stages.at(-1);
    if (last && last.size === size(unit.row.shape)) last.children.push(unit);
    else stages.push({ id: `stage ${stages.length + 1}`, size: size(unit.row.shape), children: [unit] });
  }
  return stages.map((stage) => {
    if (stage.children.length === 1) return stage.children[0];
    const row = stage.children.at(-1).row;
    const names = [stage.children[0].id, stage.children.at(-1).id].map(plain);
    return { ...stage, label: `${names[0]} … ${names[1]}`, row, own: null, stage: true };
  });
}

/** What is seen of the tree with these nodes open: { nodes, edges: [from, to][] }, edges once each. */
export function visible(stages, open) {
  const nodes = [];
  const shownAs = new Map([['@input', '@input']]);
  const passed = new Map();
  const under = (node, shown) => {
    if (node.own) shownAs.set(node.own.name, shown);
    node.children.forEach((child) => under(child, shown));
  };
  const walk = (node, depth, parent) => {
    if (node.children.length && open.has(node.id)) {
      node.children.forEach((child) => walk(child, depth + 1, node));
      if (!node.own) return;
      if (node.own.inputs.length < 2) {
        passed.set(node.own.name, node.own.inputs);
      } else {
        const joined = { id: node.own.name, label: `${node.label}: joined`, row: node.own, children: [], joined: true };
        nodes.push({ ...joined, depth: depth + 1, parent: node });
        shownAs.set(node.own.name, node.own.name);
      }
    } else if (!node.children.length && QUIET.test(node.row.kind)) {
      passed.set(node.row.name, node.row.inputs);
    } else {
      nodes.push({ ...node, depth, parent });
      under(node, node.id);
    }
  };
  stages.forEach((stage) => walk(stage, 0, null));
  return { nodes, edges: connected(shownAs, passed, stages) };
}

function connected(shownAs, passed, stages) {
  const sources = (name) => (passed.has(name) ? passed.get(name).flatMap(sources) : [shownAs.get(name)]);
  const found = new Map();
  const follow = (node) => {
    node.children.forEach(follow);
    const to = node.own && shownAs.get(node.own.name);
    if (!to) return;
    for (const from of node.own.inputs.flatMap(sources)) {
      if (from && from !== to) found.set(`${from}\n${to}`, [from, to]);
    }
  };
  stages.forEach(follow);
  return [...found.values()];
}

/** Ids of the nodes that must be open for a call to be seen. */
export function wayTo(stages, name) {
  const search = (node) => {
    if (node.own?.name === name || node.id === name) return [];
    for (const child of node.children) {
      const way = search(child);
      if (way) return [node.id, ...way];
    }
    return null;
  };
  for (const stage of stages) {
    const way = search(stage);
    if (way) return way;
  }
  return [];
}

/* Places the nodes of a graph, outside the page's thread: large networks take tens of milliseconds. */

import { Graph, layout } from './vendor/dagre/dagre.esm.js';

self.onmessage = ({ data: { id, nodes, edges } }) => {
  const graph = new Graph();
  graph.setGraph({ rankdir: 'TB', nodesep: 14, ranksep: 22, marginx: 10, marginy: 10 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const node of nodes) graph.setNode(node.id, { width: node.width, height: node.height });
  for (const [from, to] of edges) graph.setEdge(from, to);
  layout(graph);
  const { width, height } = graph.graph();
  self.postMessage({
    id,
    width,
    height,
    places: Object.fromEntries(nodes.map((node) => [node.id, graph.node(node.id)])),
    lines: edges.map(([from, to]) => graph.edge(from, to).points),
  });
};

/* What is looked at, as the address after `#`: it can be sent to somebody, kept, and gone back from. */

/** { view, image, model, layer, channel, … } of the address. */
export function place() {
  const [path, query] = location.hash.replace(/^#\/?/, '').split('?');
  return { view: path || '', ...Object.fromEntries(new URLSearchParams(query ?? '')) };
}

/** The address of a place; what is not said is left out. */
export function href(parts) {
  const { view = '', ...rest } = parts;
  const said = Object.entries(rest).filter(([, value]) => value !== undefined && value !== null && value !== '');
  const query = new URLSearchParams(said.map(([name, value]) => [name, String(value)])).toString();
  return `#/${view}${query ? `?${query}` : ''}`;
}

/** The same place with other parts; image and network stay where nothing else is said. */
export function beside(parts) {
  const { image, model } = place();
  return href({ image, model, ...parts });
}

export const go = (address) => { location.hash = address; };


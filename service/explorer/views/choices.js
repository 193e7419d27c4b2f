/* Choosing classes and layers, for the views that ask for evidence. */

import { html } from '../parts.js';

/** Classes that are asked about: those in the address, else the strongest found. */
export function classesOf(told, most) {
  const { at, predictions } = told;
  if (at.targets) return at.targets.split(',').map(Number).filter(Number.isInteger);
  return (predictions?.predictions[0] ?? []).slice(0, most).map((one) => one.index);
}

export const className = (card, index) => card.classes[index] ?? `class ${index}`;

/** The layers at which an operation applies, as options; blocks and convolutions before the small parts. */
export function layerOptions(card, operation, chosen) {
  const possible = card.layers.filter((row) => row.methods[operation] === null && row.shape.length === 3 && !/^(Identity|Dropout)/.test(row.kind));
  return possible.map((row) => html`<option value=${row.name} ?selected=${row.name === chosen}>${row.name}  (${row.shape.join('×')})</option>`);
}

/** A field that takes a class by its name. */
export function classField(card, id, onPick) {
  const pick = (event) => {
    event.preventDefault();
    const input = event.target.querySelector('input');
    const text = input.value.trim().toLowerCase();
    const index = /^\d+$/.test(text) ? Number(text) : card.classes.findIndex((name) => name.toLowerCase() === text);
    input.setCustomValidity(index < 0 || index >= card.classes.length ? 'No class of this network has that name' : '');
    if (!input.reportValidity()) return;
    input.value = '';
    onPick(index);
  };
  return html`<form class="row" @submit=${pick}><label for=${id}>Another class</label>
    <input id=${id} list="${id}-names" placeholder="Name or number" @input=${(event) => event.target.setCustomValidity('')}>
    <datalist id="${id}-names">${card.classes.map((name) => html`<option value=${name}></option>`)}</datalist>
    <button class="small">Add</button></form>`;
}

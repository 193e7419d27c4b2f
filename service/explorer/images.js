/* Images of this visit: uploading them, and the strip of those that can be chosen again. */

import { read, request } from './api.js';

export const SAMPLES = [
  { name: 'cat', title: 'Chelsea the cat', credit: 'Stéfan van der Walt, CC0' },
  { name: 'coffee', title: 'A cup of coffee', credit: 'Rachel Michetti, CC0' },
  { name: 'astronaut', title: 'Eileen Collins, astronaut', credit: 'NASA, public domain' },
  { name: 'rocket', title: 'A rocket leaves', credit: 'SpaceX, CC0' },
];

const SEEN = 'convscope-images';

/** Ids of the images of this visit, newest first. */
export const seen = () => JSON.parse(sessionStorage.getItem(SEEN) ?? '[]');

export function remember(id) {
  sessionStorage.setItem(SEEN, JSON.stringify([id, ...seen().filter((other) => other !== id)].slice(0, 12)));
}

/** Upload a file and give its id. */
export async function upload(file) {
  const body = new FormData();
  body.append('image', file, file.name || 'pasted.png');
  const { id } = await read('/v1/images', { method: 'POST', body });
  remember(id);
  return id;
}

export async function uploadSample(name) {
  const answer = await request(`/explorer/samples/${name}.jpg`);
  return upload(new File([await answer.blob()], `${name}.jpg`, { type: 'image/jpeg' }));
}

/** The ids of the four samples, uploaded where need be: the same bytes give the same id. */
export const samples = () => Promise.all(SAMPLES.map(({ name }) => uploadSample(name)));

/** The image file of a drop or a paste, if there is one. */
export function fileOf(transfer) {
  return [...(transfer?.files ?? [])].find((file) => file.type.startsWith('image/') || /\.(heic|heif|avif)$/i.test(file.name));
}

/* The service's public interface: requests with the caller's key, problems, event streams that resume, arrays. */

const KEY = 'convscope-key';

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? '',
  set: (value) => { sessionStorage.setItem(KEY, value.trim()); forget(); },
};

/** What the service refused or failed at, as RFC 9457 has it. */
export class Problem extends Error {
  constructor(document, status) {
    super(document.detail || document.title || `HTTP status ${status}`);
    this.name = 'Problem';
    this.document = document;
    this.status = status;
    this.kind = (document.type ?? '').split('/').pop();
  }

  static async of(answer) {
    const text = await answer.text();
    try {
      return new Problem(JSON.parse(text), answer.status);
    } catch {
      return new Problem({ title: `The service answered ${answer.status}.` }, answer.status);
    }
  }
}

/** A request; throws the Problem that the service answers with. */
export async function request(path, { method = 'GET', json, body, headers = {}, signal } = {}) {
  const sent = { ...headers };
  if (key.get()) sent.Authorization = `Bearer ${key.get()}`;
  if (json !== undefined) sent['Content-Type'] = 'application/json';
  let answer;
  try {
    answer = await fetch(path, { method, headers: sent, body: json === undefined ? body : JSON.stringify(json), signal });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem({ title: 'The service cannot be reached.', detail: 'The service cannot be reached. Is it running?' }, 0);
  }
  if (answer.status === 401 || answer.status === 403) window.dispatchEvent(new CustomEvent('key-needed'));
  if (!answer.ok) throw await Problem.of(answer);
  return answer;
}

export const read = async (path, options) => (await request(path, options)).json();

const kept = new Map();
const MOST_KEPT = 60;

/** A GET whose JSON is asked for once; a failure is asked for again. */
export function readOnce(path) {
  if (!kept.has(path)) kept.set(path, read(path).catch((error) => { kept.delete(path); throw error; }));
  return kept.get(path);
}

/** The finished job of an operation, as JSON; the same request of this page is made once. */
export function facts(operation, body, options = {}) {
  const name = `${operation} ${JSON.stringify(body)}`;
  if (!kept.has(name)) {
    if (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value);
    kept.set(name, compute(operation, body, options).catch((error) => { kept.delete(name); throw error; }));
  }
  return kept.get(name);
}

/** Forget what was asked with another key. */
export const forget = () => kept.clear();

/** Submit a job without waiting for it. */
export const submit = (operation, body, signal) =>
  read(`/v1/${operation}`, { method: 'POST', json: body, headers: { Prefer: 'respond-async' }, signal });

async function compute(operation, body, { signal } = {}) {
  const job = await read(`/v1/${operation}?data=href`, { method: 'POST', json: body, headers: { Prefer: 'wait=20' }, signal });
  return job.state === 'succeeded' ? job : finished(job.id, signal);
}

/** A job as JSON, without the numbers of its arrays: `array` fetches those that are wanted. */
export const jobAt = (id, options) => read(`/v1/jobs/${id}?data=href`, options);

/** Wait for a job's end and give it; throws the problem of one that failed or was cancelled. */
export async function finished(id, signal) {
  let job = await jobAt(id, { signal });
  while (['queued', 'running'].includes(job.state)) job = await read(`/v1/jobs/${id}?wait=20&data=href`, { signal });
  return settled(job);
}

/** A finished job; throws where it has no result. */
export function settled(job) {
  if (job.state === 'succeeded') return job;
  throw new Problem(job.error ?? { title: 'Cancelled', detail: 'The job was cancelled.' }, 410);
}

/** The picture of an operation in one request: { url, job, ms }. The url is of a blob, for its owner to revoke. */
export async function picture({ operation, body, query = {} }, signal) {
  const address = `/v1/${operation}${asQuery(query)}`;
  const headers = { Accept: 'image/png', Prefer: 'wait=20' };
  let answer = await request(address, { method: 'POST', json: body, headers, signal });
  if (answer.status === 202) {
    const job = await finished((await answer.json()).id, signal);
    answer = await request(`/v1/jobs/${job.id}/result${asQuery(query)}`, { headers: { Accept: 'image/png' }, signal });
  }
  return pictureOf(answer);
}

/** A picture by its address, fetched with the key: { url, job, ms }. */
export async function pictureAt(href, signal) {
  return pictureOf(await request(href, { headers: { Accept: 'image/png' }, signal }));
}

async function pictureOf(answer) {
  const computed = /computed;dur=([0-9.]+)/.exec(answer.headers.get('Server-Timing') ?? '');
  return {
    url: URL.createObjectURL(await answer.blob()),
    job: (answer.headers.get('Location') ?? '').split('/').pop(),
    ms: computed ? Number(computed[1]) : null,
  };
}

export function asQuery(query) {
  const text = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== undefined && value !== '')).toString();
  return text ? `?${text}` : '';
}

const sleep = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal?.addEventListener('abort', () => { clearTimeout(timer); resolve(); }, { once: true });
});

/** A job's events as they come: { name, data }. A stream that is lost says `lost` and is taken up where it broke off. */
export async function* events(id, signal) {
  let last = '';
  let pause = 500;
  while (!signal?.aborted) {
    try {
      const headers = { Accept: 'text/event-stream', ...(last ? { 'Last-Event-ID': last } : {}) };
      const answer = await request(`/v1/jobs/${id}/events`, { headers, signal });
      if (answer.status === 204) return;
      for await (const event of parsed(answer.body)) {
        pause = 500;
        if (event.id) last = event.id;
        yield event;
        if (event.name === 'done') return;
      }
    } catch (error) {
      if (signal?.aborted) return;
      if (error instanceof Problem && error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
    }
    yield { name: 'lost', data: {} };
    await sleep(pause, signal);
    pause = Math.min(2 * pause, 5000);
  }
}

async function* parsed(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value.replaceAll('\r\n', '\n');
      const blocks = text.split('\n\n');
      text = blocks.pop();
      for (const block of blocks) {
        const event = { id: '', name: '', data: '' };
        for (const line of block.split('\n')) {
          const [, field, rest] = /^(id|event|data): ?(.*)$/.exec(line) ?? [];
          if (field === 'id') event.id = rest;
          if (field === 'event') event.name = rest;
          if (field === 'data') event.data += rest;
        }
        if (event.name) yield { ...event, data: event.data ? JSON.parse(event.data) : {} };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

const KINDS = { '<f4': Float32Array, '<i4': Int32Array, '<i8': BigInt64Array, '|u1': Uint8Array };

/** An array of a result, fetched as .npy: { shape, data }, data flat. */
export async function array(job, name, signal) {
  const told = job.result.arrays[name];
  const bytes = await (await request(told.href, { headers: { Accept: 'application/x-npy' }, signal })).arrayBuffer();
  const length = new DataView(bytes).getUint16(8, true);
  const head = new TextDecoder().decode(bytes.slice(10, 10 + length));
  const Kind = KINDS[/'descr': '([^']+)'/.exec(head)[1]];
  return { shape: told.shape, data: new Kind(bytes.slice(10 + length)) };
}

/* A request as text to take away: as curl, and as Python with nothing but its standard library. */

import { asQuery } from './api.js';
import { Part, html } from './parts.js';

const LONG = new Set(['maximize', 'cka', 'top-activations', 'evaluate', 'compare']);

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const keyed = () => sessionStorage.getItem('convscope-key');

const name = (wish) => `${wish.operation}.png`;

export function curl(wish, job) {
  const base = location.origin;
  const body = quoted(JSON.stringify(wish.body));
  const authorization = keyed() ? ' \\\n  -H "Authorization: Bearer $CONVSCOPE_API_KEY"' : '';
  const post = (accept, prefer) => `-H 'Content-Type: application/json' -H 'Accept: ${accept}' -H 'Prefer: ${prefer}'${authorization} \\\n  -d ${body} \\\n  `;
  if (!LONG.has(wish.operation)) {
    const address = quoted(`${base}/v1/${wish.operation}${asQuery(wish.query ?? {})}`);
    return `curl --fail-with-body ${post('image/png', 'wait=60')}${address} -o ${name(wish)}`;
  }
  const begun = `curl --fail-with-body ${post('application/json', 'respond-async')}${quoted(`${base}/v1/${wish.operation}`)}`;
  const address = quoted(`${base}/v1/jobs/${job || 'ID'}/result${asQuery(wish.query ?? {})}`);
  return `# Long work: the answer is a job with its id.\n${begun}\n# Its picture, once it is finished.\ncurl --fail-with-body -H 'Accept: image/png'${authorization} \\\n  ${address} -o ${name(wish)}`;
}

const literal = (value) =>
  JSON.stringify(value, null, 4).replace(/("(?:[^"\\]|\\.)*")|\b(true|false|null)\b/g, (all, text, word) =>
    text ?? { true: 'True', false: 'False', null: 'None' }[word]);

export function python(wish) {
  const query = asQuery(wish.query ?? {});
  return `import json
import os
import time
import urllib.request

SERVICE = "${location.origin}"
REQUEST = ${literal(wish.body)}


def ask(path, accept, body=None, **headers):
    if "CONVSCOPE_API_KEY" in os.environ:
        headers["Authorization"] = "Bearer " + os.environ["CONVSCOPE_API_KEY"]
    headers |= {"Accept": accept, "Content-Type": "application/json"}
    return urllib.request.urlopen(urllib.request.Request(SERVICE + path, body, headers))


job = json.load(ask("/v1/${wish.operation}", "application/json", json.dumps(REQUEST).encode(), Prefer="respond-async"))
while job["state"] in ("queued", "running"):
    job = json.load(ask(job["links"]["self"] + "?wait=20", "application/json"))
if job["state"] != "succeeded":
    raise SystemExit(job["error"] or job["state"])
with open("${name(wish)}", "wb") as file:
    file.write(ask(job["links"]["result"] + "${query}", "image/png").read())
`.replace('import time\n', '');
}

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Clipboards are for secure pages; elsewhere a selection can be copied.
  const area = document.createElement('textarea');
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand('copy');
  area.remove();
  if (!done) throw new Error('not copied');
  return undefined;
}

/** The request of a picture: two buttons that copy it, and its text to read. */
class RequestText extends Part {
  static properties = { wish: {}, job: {}, said: { state: true } };

  constructor() {
    super();
    this.said = '';
  }

  render() {
    if (!this.wish) return html``;
    return html`<div class="request">
      <button type="button" class="small" @click=${() => this._copy('curl', curl(this.wish, this.job))}>Copy curl</button>
      <button type="button" class="small" @click=${() => this._copy('Python', python(this.wish))}>Copy Python</button>
      <span class="said" role="status">${this.said}</span>
      <details>
        <summary>The request</summary>
        <pre tabindex="0" aria-label="As curl" class="as-curl">${curl(this.wish, this.job)}</pre>
        <pre tabindex="0" aria-label="As Python" class="as-python">${python(this.wish)}</pre>
      </details>
    </div>`;
  }

  async _copy(what, text) {
    try {
      await copy(text);
      this.said = `${what} copied`;
    } catch {
      this.said = 'The browser does not allow it; open “The request”';
    }
    setTimeout(() => { this.said = ''; }, 2500);
  }
}

customElements.define('cs-request', RequestText);

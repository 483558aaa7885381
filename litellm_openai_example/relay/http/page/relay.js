// The relay's API: requests with a run's token, and its events. EventSource cannot send the token, which only a header
// carries, so the event stream is read with fetch.

const ROOT = new URL("..", import.meta.url); // a proxy may serve the relay under a path
const FIRST_PAUSE = 1000, LONGEST_PAUSE = 15000; // milliseconds between two attempts
const SILENCE = 45000; // milliseconds: three of the relay's signs of life are missing
const PASSING = new Set([408, 425, 429]); // statuses below 500 after which a request is repeated

/** The relay's refusal of a request, which a repeat would not change. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Return the address of a run's page. */
export function pageOf(id, token) {
  return new URL(`runs/${encodeURIComponent(id)}${token ? `#${encodeURIComponent(token)}` : ""}`, ROOT);
}

/** One run at the relay. `onConnection(false)` reports an interruption, `onConnection(true)` its end. */
export class Run {
  ahead = 0; // milliseconds by which the relay's clock is ahead of this machine's

  constructor(id, token, onConnection) {
    this.id = id;
    this.onConnection = onConnection;
    this.headers = { "X-Invocation-Token": token };
    this.api = new URL(`api/v1/tool-invocations/${encodeURIComponent(id)}`, ROOT).href;
  }

  /** Return the question, its language, and the report as HTML or null. */
  report() {
    return this.#repeat(() => this.#json(new URL(`runs/${encodeURIComponent(this.id)}/report`, ROOT).href));
  }

  /** Return the view. */
  view() {
    return this.#repeat(() => this.#json(this.api));
  }

  /** Ask the relay to stop the run, and return the view. Not repeated: the person may press the button again. */
  cancel() {
    return this.#json(`${this.api}/cancel`, { method: "POST" });
  }

  /** Call `onEvent(name, data)` for each event until the final one, across interruptions and restarts of the relay.
   *  `onEvent("reset")` means that the events begin again. */
  async follow(onEvent) {
    const position = { last: "", ended: false };
    await this.#repeat(async (connected) => {
      await this.#stream(position, connected, onEvent);
      if (!position.ended) throw new TypeError("the stream broke");
    });
  }

  async #stream(position, connected, onEvent) {
    const silent = new AbortController();
    let timer = setTimeout(() => silent.abort(), SILENCE);
    try {
      const resume = position.last ? { "Last-Event-ID": position.last } : {};
      const answer = await this.#send(`${this.api}/events`, { headers: resume, signal: silent.signal }).catch((error) => {
        if (error.status !== 422 || !position.last) throw error;
        position.last = ""; // the relay's ledger was set back, and lacks this event
        onEvent("reset");
        throw new TypeError("the events begin again");
      });
      connected();
      position.ended = answer.status === 204; // the final event was read before
      if (position.ended) return;
      for await (const event of eventsOf(answer.body)) {
        clearTimeout(timer);
        timer = setTimeout(() => silent.abort(), SILENCE);
        if (!event.data) continue;
        const data = JSON.parse(event.data);
        position.last = event.id ?? position.last;
        position.ended = event.name === "completed" || event.name === "error";
        onEvent(event.name, data);
        if (position.ended) return;
      }
    } finally {
      clearTimeout(timer);
      silent.abort(); // the connection of a stream that is not read to its end
    }
  }

  /** Return what `attempt` returns, repeated until the relay answers. `attempt` gets a function to call on connection. */
  async #repeat(attempt) {
    let pause = FIRST_PAUSE;
    for (;;) {
      try {
        const result = await attempt(() => {
          pause = FIRST_PAUSE;
          this.onConnection(true);
        });
        this.onConnection(true);
        return result;
      } catch (error) {
        if (error instanceof Refused) throw error;
      }
      this.onConnection(false);
      await online(pause * (0.75 + Math.random() / 2)); // spread: all pages lose a restarting relay at one moment
      pause = Math.min(pause * 2, LONGEST_PAUSE);
    }
  }

  async #json(address, options = {}) {
    return (await this.#send(address, options)).json();
  }

  async #send(address, options) {
    const headers = { ...this.headers, ...options.headers };
    const answer = await fetch(address, { ...options, headers, cache: "no-store", credentials: "same-origin" });
    if (answer.ok) {
      this.ahead = Date.parse(answer.headers.get("Date")) - Date.now() || 0;
      return answer;
    }
    if (answer.status >= 500 || PASSING.has(answer.status)) throw new TypeError(`status ${answer.status}`);
    const body = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, String(body?.error?.message ?? `The relay answers with status ${answer.status}.`));
  }
}

/** Wait for a time in milliseconds, but no longer than until the browser is online again. */
function online(milliseconds) {
  return new Promise((resolve) => {
    setTimeout(resolve, milliseconds);
    addEventListener("online", resolve, { once: true });
  });
}

/** Yield the events of a stream, and {} for a comment. */
async function* eventsOf(body) {
  let begun = "", event = {};
  for await (const text of chunksOf(body.pipeThrough(new TextDecoderStream()))) {
    const lines = text.split("\n");
    lines[0] = begun + lines[0];
    begun = lines.pop(); // not split again with each chunk: the last event may have megabytes
    for (const line of lines) {
      const [, name, value = ""] = /^([^:\r]*)(?:: ?([^\r]*))?/.exec(line);
      if (name === "id") event.id = value;
      else if (name === "event") event.name = value;
      else if (name === "data") event.data = (event.data === undefined ? "" : `${event.data}\n`) + value;
      else if (line.startsWith(":")) yield {};
      if (line.trim() === "") {
        yield event;
        event = {};
      }
    }
  }
}

async function* chunksOf(stream) {
  const reader = stream.getReader(); // not `for await (... of stream)`, which Safari lacks
  for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value;
}

// The HTTP API as the page needs it. A key is asked for on 401 and kept for this tab only.

const KEY = "postgrad-key";

export async function request(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) {
    const given = prompt("This server asks for an API key (pg_...)");
    if (given) {
      sessionStorage.setItem(KEY, given);
      return request(path, options);
    }
  }
  if (!answer.ok && answer.status !== 304) {
    const problem = await answer.json().catch(() => ({}));
    throw new Error(problem.detail || problem.title || `the server answered ${answer.status}`);
  }
  return answer;
}

export async function json(path, options) {
  return (await request(path, options)).json();
}

// Follows a job's server-sent events until its `end`, and takes them up again where they broke off. EventSource cannot send a
// key, so the stream is read with fetch.
export async function follow(jobId, cursor, onEvent, signal) {
  let last = null;
  while (!signal.aborted) {
    try {
      const query = last === null && cursor ? `?cursor=${encodeURIComponent(cursor)}` : "";
      const headers = { Accept: "text/event-stream", ...(last === null ? {} : { "Last-Event-ID": last }) };
      const answer = await request(`/v1/jobs/${jobId}/stream${query}`, { headers, signal });
      for await (const event of events(answer.body)) {
        last = event.id ?? last;
        onEvent(event.type, event.data);
        if (event.type === "end") return;
      }
    } catch (error) {
      if (signal.aborted) return;
      console.warn(`stream: ${error.message}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      const event = { type: "message", id: undefined, data: "" };
      for (const line of block.split("\n")) {
        const colon = line.indexOf(":");
        const text = line.slice(colon + 1).replace(/^ /, "");
        if (line.startsWith("event:")) event.type = text;
        else if (line.startsWith("id:")) event.id = text;
        else if (line.startsWith("data:")) event.data += text;
      }
      if (event.data) yield { ...event, data: JSON.parse(event.data) };
    }
  }
}

// Against a real server: VISIONDYNO_URL and VISIONDYNO_KEY name it. Its jobs are the operations of
// tests/contracts/executor_contract.py.

import assert from "node:assert/strict";
import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";

import {
  isTerminal,
  type JobEvent,
  JobFailed,
  type Options,
  TimeIsOver,
  Unreachable,
  VisionDyno,
  VisionDynoError,
} from "visiondyno";

const baseUrl = process.env.VISIONDYNO_URL ?? assert.fail("VISIONDYNO_URL is not set");
const apiKey = process.env.VISIONDYNO_KEY ?? assert.fail("VISIONDYNO_KEY is not set");

function client(options: Options = {}): VisionDyno {
  return new VisionDyno({ baseUrl, apiKey, ...options });
}

async function collect(events: AsyncIterable<JobEvent>): Promise<JobEvent[]> {
  const all: JobEvent[] = [];
  for await (const event of events) all.push(event);
  return all;
}

/** A server of the test's own; `use` gets its address. */
async function serving(answer: RequestListener, use: (url: string) => Promise<void>) {
  const server = createServer(answer);
  await new Promise<void>((ready) => server.listen(0, "127.0.0.1", ready));
  try {
    await use(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  } finally {
    server.closeAllConnections();
    await new Promise((closed) => server.close(closed));
  }
}

test("a job is submitted and polled to its output", async () => {
  const dyno = client();
  const accepted = await dyno.run({ operation: "echo", say: "hello" });
  const answer = await dyno.poll(accepted.id, { firstPauseMs: 10 });
  assert.equal(answer.id, accepted.id);
  assert.equal(answer.status, "COMPLETED");
  assert.deepEqual(answer.output, { said: "hello" });
  assert.equal(typeof answer.executionTime, "number");
  assert.deepEqual(await dyno.result(accepted.id), { said: "hello" });
});

test("runsync waits for the answer", async () => {
  const answer = await client().runsync({ operation: "echo", say: 1 }, { waitMs: 30_000 });
  assert.equal(answer.status, "COMPLETED");
  assert.deepEqual(answer.output, { said: 1 });
});

test("a stream gives every event to the terminal one", async () => {
  const dyno = client();
  const { id } = await dyno.run({ operation: "echo", say: "ü", steps: 3 });
  const events = await collect(dyno.stream(id));
  const numbers = events.map((event) => event.number);
  assert.deepEqual(numbers, [...numbers].sort((a, b) => a - b));
  const told = events.flatMap((event) => (event.progress ? [event.progress.done] : []));
  assert.deepEqual(told, [0, 1, 2]);
  assert.deepEqual(
    events.map((event) => isTerminal(event.state)),
    events.map((_, index) => index === events.length - 1),
  );
  assert.deepEqual(events.at(-1)?.answer?.output, { said: "ü" });

  const from = numbers[2] ?? assert.fail("there are more than two events");
  assert.deepEqual(await collect(dyno.stream(id, { after: from })), events.slice(3));
  assert.deepEqual(await collect(dyno.stream(id, { after: numbers.at(-1) ?? 0 })), []);
});

test("a stream may be left early, and by a signal", async () => {
  const dyno = client();
  const { id } = await dyno.run({ operation: "until stopped" });
  for await (const event of dyno.stream(id)) {
    if (event.progress) break;
  }
  const stop = new AbortController();
  const left = (async () => {
    for await (const event of dyno.stream(id, { signal: stop.signal })) {
      if (event.progress) stop.abort(new Error("enough"));
    }
  })();
  await assert.rejects(left, /enough/);
  await dyno.cancel(id);
  assert.equal((await dyno.poll(id, { firstPauseMs: 10 })).status, "CANCELLED");
});

test("a stream that breaks off goes on after the last event", async () => {
  const { id } = await client().run({ operation: "echo", say: "again", steps: 4 });
  const whole = await collect(client().stream(id));
  const asked: (string | undefined)[] = [];
  const breaksOff: RequestListener = async (request, response) => {
    asked.push(request.headers["last-event-id"] as string | undefined);
    const real = await fetch(baseUrl + request.url, {
      headers: { authorization: `Bearer ${apiKey}`, "last-event-id": asked.at(-1) ?? "0" },
    });
    const text = await real.text();
    response.writeHead(200, { "content-type": "text/event-stream" });
    // One event and half of the next, then nothing.
    const second = text.indexOf("\n\n") + 2;
    response.write(text.slice(0, second + 10), () => response.destroy());
  };
  await serving(breaksOff, async (url) => {
    const waits: number[] = [];
    const dyno = client({ baseUrl: url, sleep: async (ms) => void waits.push(ms) });
    assert.deepEqual(await collect(dyno.stream(id)), whole);
    assert.equal(waits.length, whole.length - 1);
  });
  assert.deepEqual(asked, ["0", ...whole.slice(0, -1).map((event) => String(event.number))]);
});

test("a stream that never ends its job is given up", async () => {
  const ends: RequestListener = (_, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" }).end(": nothing\n\n");
  };
  await serving(ends, async (url) => {
    const waits: number[] = [];
    const dyno = client({ baseUrl: url, sleep: async (ms) => void waits.push(ms) });
    await assert.rejects(collect(dyno.stream("job")), Unreachable);
    assert.equal(waits.length, 5);
    assert.ok(waits.every((ms, index) => ms >= 250 * 2 ** index && ms <= 250 * 2 ** (index + 1)));
  });
});

test("a failed job says why, and can be retried", async () => {
  const dyno = client();
  const { id } = await dyno.run({ operation: "refuse" });
  const failed = await dyno.result(id, { firstPauseMs: 10 }).catch((error: unknown) => error);
  assert.ok(failed instanceof JobFailed);
  assert.match(failed.message, /images\/7\.jpg is empty/);
  assert.equal(failed.answer.status, "FAILED");
  assert.equal(failed.answer.error?.code, "bad_dataset");
  assert.equal((await dyno.retry(id)).id, id);
  assert.equal((await dyno.poll(id, { firstPauseMs: 10 })).status, "FAILED");
});

test("the same idempotency key makes one job", async () => {
  const dyno = client();
  const given = { idempotencyKey: `key-${Date.now()}` };
  const first = await dyno.run({ operation: "echo", say: "once" }, given);
  const second = await dyno.run({ operation: "echo", say: "once" }, given);
  assert.equal(first.id, second.id);
  await assert.rejects(
    dyno.run({ operation: "echo", say: "other" }, given),
    (error) => error instanceof VisionDynoError && error.code === "conflict",
  );
});

test("an error is the server's problem document", async () => {
  const cases: [() => Promise<unknown>, number, string][] = [
    [() => client().status("no-such-job"), 404, "not_found"],
    [() => client({ endpoint: "no/such endpoint" }).run({}), 404, "not_found"],
    [() => client().run({}, { policy: { executionTimeout: -1 } }), 422, "bad_spec"],
    [() => new VisionDyno({ baseUrl }).queueStatus(), 401, "unauthorized"],
    [() => collect(client().stream("no-such-job")), 404, "not_found"],
  ];
  for (const [attempt, status, code] of cases) {
    const error = await attempt().then(
      () => undefined,
      (reason: unknown) => reason,
    );
    assert.ok(error instanceof VisionDynoError, String(error));
    assert.equal(error.status, status);
    assert.equal(error.code, code);
    assert.equal(error.message, error.problem.detail);
    assert.ok(error.problem.instance.startsWith("/"));
    assert.equal(error.passes, false);
    if (status === 422) assert.match(error.problem.errors?.[0]?.field ?? "", /executionTimeout/);
  }
});

test("a model is handed in and ends scored or refused, with a reason", async () => {
  const dyno = client();
  const file = new Blob([new Uint8Array(1000)]);
  const key = { idempotencyKey: `model-${Date.now()}` };
  const view = await dyno.submitModel("task2", file, { name: "zeros", ...key });
  assert.match(view.submission_id, /^sub_\d+_[0-9a-f]{8}$/);
  const again = await dyno.submitModel("task2", file, { name: "zeros", ...key });
  assert.equal(again.submission_id, view.submission_id);
  const ended = await dyno.pollSubmission("task2", view.submission_id, { firstPauseMs: 10 });
  assert.equal(ended.status, "failed");
  assert.ok(ended.error);
  assert.deepEqual((await dyno.leaderboard("task2")).rows, []);
  assert.equal((await dyno.queueStatus()).queue_length, 0);
  await assert.rejects(
    dyno.submitModel("no-such-task", file),
    (error) => error instanceof VisionDynoError && error.status === 404,
  );
});

test("a server that is busy is waited for, as long as it says", async () => {
  const { id } = await client().run({ operation: "echo", say: "late" });
  await client().poll(id, { firstPauseMs: 10 });
  let left = 2;
  const busy: RequestListener = async (request, response) => {
    if (left-- > 0) {
      const problem = { type: "", title: "", status: 503, detail: "busy", instance: "", code: "x" };
      response.writeHead(503, { "retry-after": "7" }).end(JSON.stringify(problem));
      return;
    }
    const real = await fetch(baseUrl + request.url, {
      headers: { authorization: `Bearer ${apiKey}` },
    });
    response.writeHead(real.status).end(await real.text());
  };
  await serving(busy, async (url) => {
    const waits: number[] = [];
    const dyno = client({ baseUrl: url, sleep: async (ms) => void waits.push(ms) });
    assert.deepEqual(await dyno.result(id), { said: "late" });
    assert.deepEqual(waits, [7000, 200, 7000, 300]);
  });
});

test("what answers and is not VisionDyno is told apart from what does not answer", async () => {
  const page: RequestListener = (_, response) => response.writeHead(404).end("<html>");
  await serving(page, async (url) => {
    await assert.rejects(client({ baseUrl: url }).status("job"), {
      name: "Unreachable",
      message: /something that isn't VisionDyno's/,
    });
  });
  const noJson: RequestListener = (_, response) => response.writeHead(200).end("<html>");
  await serving(noJson, async (url) => {
    await assert.rejects(client({ baseUrl: url }).status("job"), /answered with no JSON/);
  });
  let closed = "";
  await serving(page, async (url) => void (closed = url));
  const waits: number[] = [];
  const dyno = client({ baseUrl: closed, sleep: async (ms) => void waits.push(ms) });
  await assert.rejects(dyno.poll("job"), { name: "Unreachable", message: /No server answers/ });
  assert.equal(waits.length, 10, "a back-off and a pause after each failure but the last");
});

test("the caller's time and signal end the waiting, and the job goes on", async () => {
  const dyno = client();
  const { id } = await dyno.run({ operation: "until stopped" });
  await assert.rejects(dyno.poll(id, { timeoutMs: 30, firstPauseMs: 10 }), TimeIsOver);
  const stop = new AbortController();
  const polling = dyno.poll(id, { firstPauseMs: 60_000, signal: stop.signal });
  setTimeout(() => stop.abort(new Error("no longer wanted")), 20);
  await assert.rejects(polling, /no longer wanted/);
  assert.ok(!isTerminal((await dyno.status(id)).status));
  await dyno.cancel(id);
});

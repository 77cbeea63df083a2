/** The client: submit, poll, stream; hand in models. */

import { JobFailed, TimeIsOver, Unreachable, VisionDynoError } from "./errors.js";
import { eventsOnce, isTerminal, type JobEvent } from "./events.js";
import type {
  Accepted,
  CancelData,
  JobAnswer,
  JobRequest,
  LeaderboardData,
  LeaderboardView,
  QueueStatus,
  QueueStatusData,
  RetryData,
  RunData,
  RunsyncData,
  StatusData,
  SubmissionStatusData,
  SubmissionView,
  SubmitModelData,
} from "./generated/types.gen.js";
import { Http } from "./http.js";

/** Waits so many milliseconds; ends early when the signal aborts. */
export type Sleep = (ms: number, signal?: AbortSignal) => Promise<void>;

/** Where the server is, and how to ask it. */
export interface Options {
  /** Default: `http://127.0.0.1:8000`. */
  baseUrl?: string;
  /** A key of `dyno keys create`; none is needed on a loopback server. */
  apiKey?: string;
  /** The job API's endpoint. Default: `default`. */
  endpoint?: string;
  /** Default: the platform's. */
  fetch?: typeof fetch;
  /** Waits so many milliseconds, or until the signal aborts. Default: a timer. */
  sleep?: Sleep;
}

/** How long to wait for an end, and how often to look. */
export interface Patience {
  /** Milliseconds; without it there is no limit. */
  timeoutMs?: number;
  /** The first pause between two looks; each is half as long again as the one before. */
  firstPauseMs?: number;
  /** The longest pause. */
  longestPauseMs?: number;
  signal?: AbortSignal;
}

/** How a job is to be treated, beside its input. */
export interface Submitting extends Omit<JobRequest, "input"> {
  /** The same key with the same request answers with what it made the first time. */
  idempotencyKey?: string;
  signal?: AbortSignal;
}

/** What goes with a model that is handed in. */
export interface HandingIn {
  /** What the leaderboard shows; the file's name without it. */
  name?: string;
  /** Default: the file's own, else `model.onnx`. */
  fileName?: string;
  idempotencyKey?: string;
  signal?: AbortSignal;
}

/** Failures in a row after which a server that doesn't answer is given up. */
const MOST_FAILURES = 6;

/**
 * One server.
 *
 * Every method throws `VisionDynoError` where the server refuses, and `Unreachable` where none
 * answers. `poll`, `result`, `stream` and `pollSubmission` wait out a server that is busy or away.
 */
export class VisionDyno {
  readonly #http: Http;
  readonly #endpoint: string;
  readonly #sleep: Sleep;

  constructor(options: Options = {}) {
    const fetcher = options.fetch ?? ((input, init) => fetch(input, init));
    this.#http = new Http(options.baseUrl ?? "http://127.0.0.1:8000", options.apiKey, fetcher);
    this.#endpoint = options.endpoint ?? "default";
    this.#sleep = options.sleep ?? timer;
  }

  /** Submit a job; answers at once. */
  run(input: JobRequest["input"], given: Submitting = {}): Promise<Accepted> {
    const { idempotencyKey, signal, ...rest } = given;
    return this.#http.json<RunData, Accepted>(
      "POST",
      "/v2/{endpoint}/run",
      {
        path: { endpoint: this.#endpoint },
        headers: { "Idempotency-Key": idempotencyKey ?? null },
        body: { input, ...rest },
      },
      signal,
    );
  }

  /** Submit a job and wait for its answer, at most `waitMs` (1,000 to 300,000). */
  runsync(
    input: JobRequest["input"],
    given: Submitting & { waitMs?: number } = {},
  ): Promise<JobAnswer> {
    const { idempotencyKey, signal, waitMs, ...rest } = given;
    return this.#http.json<RunsyncData, JobAnswer>(
      "POST",
      "/v2/{endpoint}/runsync",
      {
        path: { endpoint: this.#endpoint },
        headers: { "Idempotency-Key": idempotencyKey ?? null },
        body: { input, ...rest },
        ...(waitMs === undefined ? {} : { query: { wait: waitMs } }),
      },
      signal,
    );
  }

  /** How a job stands. */
  status(jobId: string, signal?: AbortSignal): Promise<JobAnswer> {
    return this.#http.json<StatusData, JobAnswer>(
      "GET",
      "/v2/{endpoint}/status/{job_id}",
      { path: { endpoint: this.#endpoint, job_id: jobId } },
      signal,
    );
  }

  /**
   * Look again and again, ever more rarely, until the job has ended; its answer then.
   *
   * @throws TimeIsOver `timeoutMs` have passed; the job goes on.
   */
  poll(jobId: string, patience: Patience = {}): Promise<JobAnswer> {
    return this.#pollUntil(
      () => this.status(jobId, patience.signal),
      (answer) => isTerminal(answer.status),
      `The job ${jobId}`,
      patience,
    );
  }

  /**
   * The output of a job, once it is COMPLETED.
   *
   * @throws JobFailed it ended otherwise.
   * @throws TimeIsOver as `poll`.
   */
  async result(jobId: string, patience: Patience = {}): Promise<Record<string, unknown>> {
    const answer = await this.poll(jobId, patience);
    if (answer.status !== "COMPLETED") throw new JobFailed(answer);
    return answer.output ?? {};
  }

  /**
   * A job's events as they come, from its last retry on; ends after the terminal one.
   *
   * A connection that breaks off is opened anew after the last event.
   */
  async *stream(
    jobId: string,
    given: { after?: number; signal?: AbortSignal } = {},
  ): AsyncGenerator<JobEvent, void> {
    let after = given.after ?? 0;
    for (let failures = 0; ; failures += 1) {
      let reason: unknown = new Unreachable(`The events of ${jobId} end before the job does.`);
      const events = eventsOnce(this.#http, jobId, after, given.signal);
      try {
        let next = await events.next();
        while (!next.done) {
          after = next.value.number;
          failures = 0;
          yield next.value;
          next = await events.next();
        }
        if (next.value) return;
      } catch (error) {
        reason = error;
      } finally {
        await events.return(true);
      }
      await this.#waitOut(reason, failures + 1, given.signal);
    }
  }

  /** Stop a job that waits or runs; one that has ended stays as it is. */
  cancel(jobId: string): Promise<Accepted> {
    return this.#http.json<CancelData, Accepted>("POST", "/v2/{endpoint}/cancel/{job_id}", {
      path: { endpoint: this.#endpoint, job_id: jobId },
    });
  }

  /** Run a FAILED or TIMED_OUT job again, under the same id. */
  retry(jobId: string): Promise<Accepted> {
    return this.#http.json<RetryData, Accepted>("POST", "/v2/{endpoint}/retry/{job_id}", {
      path: { endpoint: this.#endpoint, job_id: jobId },
    });
  }

  /** Hand in an ONNX model to an evaluation task. */
  submitModel(task: string, model: Blob, given: HandingIn = {}): Promise<SubmissionView> {
    const form = new FormData();
    // The server reads the form as it comes: the name must stand before the file.
    if (given.name !== undefined) form.append("name", given.name);
    const ownName = "name" in model && typeof model.name === "string" ? model.name : "model.onnx";
    form.append("file", model, given.fileName ?? ownName);
    type Form = Omit<SubmitModelData, "body"> & { body: FormData };
    return this.#http.json<Form, SubmissionView>(
      "POST",
      "/submit/{task}",
      { path: { task }, headers: { "Idempotency-Key": given.idempotencyKey ?? null }, body: form },
      given.signal,
    );
  }

  /** How a submission stands. */
  submission(task: string, submissionId: string, signal?: AbortSignal): Promise<SubmissionView> {
    return this.#http.json<SubmissionStatusData, SubmissionView>(
      "GET",
      "/submit/{task}/status/{submission_id}",
      { path: { task, submission_id: submissionId } },
      signal,
    );
  }

  /** Look until a submission is completed or failed; throws `TimeIsOver` as `poll`. */
  pollSubmission(
    task: string,
    submissionId: string,
    patience: Patience = {},
  ): Promise<SubmissionView> {
    return this.#pollUntil(
      () => this.submission(task, submissionId, patience.signal),
      (view) => view.status === "completed" || view.status === "failed",
      `The submission ${submissionId}`,
      patience,
    );
  }

  /** The best submission of each name, by rank. */
  leaderboard(task: string): Promise<LeaderboardView> {
    return this.#http.json<LeaderboardData, LeaderboardView>("GET", "/submit/{task}/leaderboard", {
      path: { task },
    });
  }

  /** What waits, for how long, and who works. */
  queueStatus(): Promise<QueueStatus> {
    return this.#http.json<QueueStatusData, QueueStatus>("GET", "/submit/queue/status", {});
  }

  async #pollUntil<Answer>(
    look: () => Promise<Answer>,
    ended: (answer: Answer) => boolean,
    what: string,
    patience: Patience,
  ): Promise<Answer> {
    const { timeoutMs = Infinity, firstPauseMs = 200, longestPauseMs = 5_000, signal } = patience;
    const deadline = performance.now() + timeoutMs;
    let pauseMs = firstPauseMs;
    let failures = 0;
    for (;;) {
      signal?.throwIfAborted();
      try {
        const answer = await look();
        if (ended(answer)) return answer;
        failures = 0;
      } catch (error) {
        failures += 1;
        await this.#waitOut(error, failures, signal);
      }
      const leftMs = deadline - performance.now();
      if (leftMs <= 0) {
        throw new TimeIsOver(`${what} has not ended after ${timeoutMs} ms; it goes on.`);
      }
      await this.#sleep(Math.min(pauseMs, leftMs), signal);
      pauseMs = Math.min(pauseMs * 1.5, longestPauseMs);
    }
  }

  /** Wait before another attempt; throws `error` if none would help. */
  async #waitOut(error: unknown, failures: number, signal?: AbortSignal): Promise<void> {
    const refused = error instanceof VisionDynoError;
    const passes = error instanceof Unreachable || (refused && error.passes);
    if (!passes || failures >= MOST_FAILURES) throw error;
    const asked = refused ? error.retryAfterMs : undefined;
    // Scattered, so that clients that failed together don't come back together.
    await this.#sleep(asked ?? 250 * 2 ** failures * (0.5 + Math.random() / 2), signal);
    signal?.throwIfAborted();
  }
}

const timer: Sleep = (ms, signal) =>
  new Promise((done) => {
    const end = () => {
      clearTimeout(handle);
      signal?.removeEventListener("abort", end);
      done();
    };
    const handle = setTimeout(end, ms);
    signal?.addEventListener("abort", end);
    if (signal?.aborted) end();
  });

/** A job's events as they come, over fetch: EventSource can't send an API key. */

import { EventSourceParserStream } from "eventsource-parser/stream";

import { Unreachable } from "./errors.js";
import type { JobAnswer, JobState, WatchJobData } from "./generated/types.gen.js";
import { type Http, unlessAborted } from "./http.js";

/** One thing that happened to a job. */
export interface JobEvent {
  /** Rises; an event's number never changes. */
  number: number;
  /** The job's state from this event on. */
  state: JobState;
  /** Seconds since the epoch. */
  at: number;
  /** What the operation said; absent for a mere change of state. */
  progress?: Record<string, unknown>;
  /** Of the terminal event only. */
  answer?: JobAnswer;
}

/** The server pings every 15 seconds: after so long without a byte the connection is dead. */
const SILENCE_MS = 60_000;

const TERMINAL: ReadonlySet<JobState> = new Set(["COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]);

/** Whether nothing follows this state, but a retry. */
export function isTerminal(state: JobState): boolean {
  return TERMINAL.has(state);
}

/**
 * Events of one connection, after number `after`; returns whether they are all there are.
 *
 * @throws Unreachable the connection broke off.
 */
export async function* eventsOnce(
  http: Http,
  jobId: string,
  after: number,
  signal?: AbortSignal,
): AsyncGenerator<JobEvent, boolean> {
  const silence = new AbortController();
  const stop = () => silence.abort(signal?.reason);
  signal?.addEventListener("abort", stop, { once: true });
  if (signal?.aborted) stop();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(new Unreachable("The server fell silent.")), SILENCE_MS);
  };
  try {
    heard();
    const response = await http.response<WatchJobData>(
      "GET",
      "/api/jobs/{job_id}/events",
      { path: { job_id: jobId }, headers: { "Last-Event-ID": after } },
      silence.signal,
    );
    if (response.status === 204 || response.body === null) return true;
    const listener = new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        heard();
        controller.enqueue(chunk);
      },
    });
    const messages = response.body
      .pipeThrough(listener)
      .pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>)
      .pipeThrough(new EventSourceParserStream());
    for await (const message of messages) {
      const event = JSON.parse(message.data) as JobEvent;
      yield event;
      if (isTerminal(event.state)) return true;
    }
    return false;
  } catch (cause) {
    if (cause instanceof TypeError || silence.signal.aborted) {
      throw unlessAborted(cause, signal, `The events of ${jobId} broke off.`);
    }
    throw cause;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", stop);
    // A caller that leaves early leaves the connection too.
    silence.abort();
  }
}

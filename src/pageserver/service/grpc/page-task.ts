/** One request of a stream of pages on its way to an answer, and what several of them have in common. */
import type { Lsn } from "../../../base/lsn.ts";
import type { GetPageRequest, GetPageResponse, RequestId } from "../../../base/page-api/page-model.ts";
import { type OutgoingMessage, ResponseWriter, headRoom } from "../../../base/page-api/page-responses.ts";
import type { Metrics } from "../metrics.ts";
import type { ByteSlab } from "./byte-slab.ts";
import { MESSAGE_HEADER_SIZE } from "./message-decoder.ts";
import type { Found } from "./page-context.ts";
import type { Lane } from "./request-scheduler.ts";

export interface PageTask {
  readonly requestId: RequestId;
  readonly lane: Lane;
  readonly blocks: readonly number[];
  /** By `performance.now()`. */
  readonly startedAt: number;
  /** Undefined for what is no request. */
  request?: GetPageRequest;
  /** Where to read it; undefined if it cannot be read. */
  found?: Found;
  /** Undefined also while WAL is waited for. */
  lsn?: Lsn | undefined;
  answer?: GetPageResponse;
  /** Instead of an answer: what ends the stream. */
  failure?: { readonly error: unknown };
  /** Name of gRPC's status, for metrics. */
  status: string;
}

export interface ReadableTask extends PageTask {
  request: GetPageRequest;
  found: Found;
}

export function isReadable(task: PageTask): task is ReadableTask {
  return task.found !== undefined && task.answer === undefined && task.failure === undefined;
}

/** Whether WAL must come first that is not here yet. */
export function mustWait(task: PageTask): boolean {
  return task.lsn === undefined && isReadable(task);
}

/** Cuts a batch into runs that are read together: one after the other for one relation at one LSN. */
export function runsOf(batch: readonly ReadableTask[]): ReadableTask[][] {
  const runs: ReadableTask[][] = [];
  let run: ReadableTask[] = [];
  for (const task of batch) {
    const [first] = run;
    if (first !== undefined && isReadWith(first, task)) {
      run.push(task);
    } else {
      run = [task];
      runs.push(run);
    }
  }
  return runs;
}

function isReadWith(a: ReadableTask, b: ReadableTask): boolean {
  const one = a.request.rel;
  const other = b.request.rel;
  return (
    a.lsn === b.lsn &&
    a.found.timeline === b.found.timeline &&
    one.relNumber === other.relNumber &&
    one.fork === other.fork &&
    one.dbOid === other.dbOid &&
    one.spcOid === other.spcOid
  );
}

/** Answers as they go out, each with the head of a message that is not compressed. */
export function framedAnswers(answers: readonly GetPageResponse[], slab: ByteSlab): OutgoingMessage {
  let room = 0;
  for (const answer of answers) room += MESSAGE_HEADER_SIZE + headRoom(answer);
  const writer = new ResponseWriter(slab.take(room));
  for (const answer of answers) {
    const { at, sizeBytes } = writer.add(answer, MESSAGE_HEADER_SIZE);
    // The byte before, which says that it is not compressed, is 0.
    writer.setU32be(at + 1, sizeBytes);
  }
  return writer.finish();
}

/** Counts what has been answered, or has ended the stream. */
export function countTasks(metrics: Metrics, batch: readonly PageTask[]): void {
  const now = performance.now();
  for (const lane of ["normal", "prefetch", "background"] as const) {
    let requests = 0;
    let pages = 0;
    for (const task of batch) {
      if (task.lane !== lane) continue;
      metrics.grpcDurations.observe(GET_PAGES, (now - task.startedAt) / 1000);
      if (task.status === "OK") {
        requests++;
        pages += task.blocks.length;
      } else {
        metrics.grpcRequests.add({ method: "GetPages", class: lane, status: task.status });
      }
    }
    if (requests === 0) continue;
    metrics.grpcRequests.add(WELL_ANSWERED[lane], requests);
    metrics.grpcPages.add(OF_CLASS[lane], pages);
  }
}

const GET_PAGES = { method: "GetPages" };
const WELL_ANSWERED: Readonly<Record<Lane, { method: string; class: Lane; status: string }>> = {
  normal: { method: "GetPages", class: "normal", status: "OK" },
  prefetch: { method: "GetPages", class: "prefetch", status: "OK" },
  background: { method: "GetPages", class: "background", status: "OK" },
};
const OF_CLASS: Readonly<Record<Lane, { class: Lane }>> = {
  normal: { class: "normal" },
  prefetch: { class: "prefetch" },
  background: { class: "background" },
};

/**
 * `pagestream_v2` and `pagestream_v3`: single pages and sizes on request, over CopyBoth. Requests may be sent without
 * waiting for answers; those for pages that are here already are read together. Answers come in the order of requests.
 */
import { ErrorCode, NeonError, unreachable } from "../../../base/errors.ts";
import type { Lsn } from "../../../base/lsn.ts";
import type { StatementChannel } from "../../../pgwire/statement.ts";
import { effectiveLsn, effectiveLsnNow } from "../../read/effective-lsn.ts";
import { PageReaders, type TimelinePages } from "../../read/timeline-pages.ts";
import type { ServedTimeline } from "../../timeline/served-timeline.ts";
import type { Tenants } from "../../timeline/tenants.ts";
import type { Metrics } from "../metrics.ts";
import type { LibpqCommand } from "./command.ts";
import { checkTenant } from "../identity.ts";
import {
  AnswerWriter,
  type PageRequest,
  type StreamRequest,
  type StreamVersion,
  decodeStreamRequest,
} from "./pagestream-format.ts";

/** Requests that are read together at most. */
const BATCH_MAX = 32;
/** How the text of an error begins where the client is to blame. */
const BAD_REQUEST = "Bad request: ";

export interface PagestreamContext {
  readonly tenants: Tenants<ServedTimeline>;
  readonly readers: PageReaders;
  readonly metrics: Metrics;
}

export function pagestreamCommands(context: PagestreamContext): LibpqCommand[] {
  return [pagestream(context, 2), pagestream(context, 3)];
}

function pagestream({ tenants, readers, metrics }: PagestreamContext, version: StreamVersion): LibpqCommand {
  const name = `pagestream_v${version}`;
  return {
    name,
    synopsis: `${name} TENANT TIMELINE`,
    summary: "Pages and sizes of relations on request: CopyBoth.",
    prepare: (args) => {
      const tenantId = args.tenantId();
      const timelineId = args.timelineId();
      return {
        run: async (session) => {
          checkTenant(session.identity, tenantId);
          const timeline = tenants.get(tenantId).timeline(timelineId);
          const pages = await readers.of(timeline);
          const stream = new PageStream(timeline, pages, version, session.signal);
          try {
            await stream.serve(await session.copyBoth());
          } finally {
            for (const [kind, count] of stream.counts) metrics.pageRequests.add({ kind }, count);
          }
        },
      };
    },
  };
}

class PageStream {
  /** Requests by kind. */
  readonly counts = new Map<string, number>();
  private readonly timeline: ServedTimeline;
  private readonly pages: TimelinePages;
  private readonly version: StreamVersion;
  private readonly writer: AnswerWriter;
  private readonly signal: AbortSignal;

  constructor(timeline: ServedTimeline, pages: TimelinePages, version: StreamVersion, signal: AbortSignal) {
    this.timeline = timeline;
    this.pages = pages;
    this.version = version;
    this.writer = new AnswerWriter(version);
    this.signal = signal;
  }

  /** Until the client ends the stream. */
  async serve(channel: StatementChannel): Promise<void> {
    for (;;) {
      const payload = await channel.receive();
      if (payload === undefined) return;
      const batch = [payload];
      while (batch.length < BATCH_MAX) {
        const more = channel.receiveNow();
        if (more === undefined) break;
        batch.push(more);
      }
      const runs = runsOf(await this.placeAll(batch));
      const answers = await Promise.all(runs.map((run) => this.readRun(run)));
      this.signal.throwIfAborted();
      for (const write of answers) write(this.writer);
      const { frames, onWritten } = this.writer.take();
      await channel.sendFrames(frames, onWritten);
    }
  }

  /** Those that wait for WAL hold up those behind them, which are answered later anyway. */
  private async placeAll(batch: readonly Uint8Array[]): Promise<Placed[]> {
    const placed: Placed[] = [];
    const waiting: Promise<void>[] = [];
    for (const [index, payload] of batch.entries()) {
      const found = this.place(payload);
      if (found instanceof Promise) waiting.push(found.then((later) => void (placed[index] = later)));
      else placed[index] = found;
    }
    if (waiting.length > 0) await Promise.all(waiting);
    return placed;
  }

  /** A request with the LSN at which it is to be read, once that is here; or the answer to one that cannot be. */
  private place(payload: Uint8Array): Placed | Promise<Placed> {
    const request = decodeStreamRequest(payload, this.version);
    this.counts.set(request.kind, (this.counts.get(request.kind) ?? 0) + 1);
    if (request.kind === "bad") {
      return { answer: (writer) => writer.error(request, `${BAD_REQUEST}${request.message}`) };
    }
    try {
      const lsn = effectiveLsnNow(this.timeline, request);
      return lsn === undefined ? this.placeLater(request) : { request, lsn };
    } catch (error) {
      return { answer: failed(request, error) };
    }
  }

  private async placeLater(request: StreamRequest): Promise<Placed> {
    try {
      return { request, lsn: await effectiveLsn(this.timeline, request) };
    } catch (error) {
      return { answer: failed(request, error) };
    }
  }

  /** The answers to a run of `runsOf`. */
  private async readRun(run: readonly Placed[]): Promise<Answer> {
    const [first] = run;
    if (run.length > 1 && isPage(first)) {
      const requests = run.filter(isPage).map(({ request }) => request);
      try {
        const blocks = requests.map(({ block }) => block);
        const pages = await this.pages.pages(first.request.fork, blocks, first.lsn);
        return (writer) => {
          for (const [index, page] of pages.entries()) writer.page(requests[index] ?? first.request, page);
        };
      } catch (error) {
        if (!(error instanceof NeonError)) throw error;
        // One of them cannot be read: the others can be.
      }
    }
    const answers = await Promise.all(run.map((placed) => this.read(placed)));
    return (writer) => {
      for (const write of answers) write(writer);
    };
  }

  /** An answer to everything; what goes wrong is an answer as well, and the stream goes on. */
  private async read(placed: Placed): Promise<Answer> {
    if ("answer" in placed) return placed.answer;
    try {
      return await this.answerTo(placed);
    } catch (error) {
      return failed(placed.request, error);
    }
  }

  private async answerTo({ request, lsn }: PlacedRequest): Promise<Answer> {
    const { pages } = this;
    switch (request.kind) {
      case "page": {
        const page = await pages.page(request.fork, request.block, lsn);
        return (writer) => writer.page(request, page);
      }
      case "exists": {
        const exists = await pages.exists(request.fork, lsn);
        return (writer) => writer.exists(request, exists);
      }
      case "nblocks": {
        const blocks = await pages.blocks(request.fork, lsn);
        return (writer) => writer.blocks(request, blocks);
      }
      case "db-size": {
        const sizeBytes = await pages.databaseSize(request.dbOid, lsn);
        return (writer) => writer.databaseSize(request, sizeBytes);
      }
      case "slru": {
        const segment = await pages.slruSegment(request.slru, request.segment, lsn);
        return (writer) => writer.slru(request, segment);
      }
      default:
        return unreachable(request);
    }
  }
}

/** Writes answers that are known. */
type Answer = (writer: AnswerWriter) => void;

function failed(request: StreamRequest, error: unknown): Answer {
  // Bugs end the stream; the log says where they are.
  if (!(error instanceof NeonError)) throw error;
  const prefix = error.code === ErrorCode.Usage ? BAD_REQUEST : "";
  return (writer) => writer.error(request, `${prefix}${error.message}`);
}

interface PlacedRequest<R = StreamRequest> {
  readonly request: R;
  readonly lsn: Lsn;
}

/** A request that can be read, or the answer to one that cannot. */
type Placed = PlacedRequest | { readonly answer: Answer };

function isPage(placed: Placed | undefined): placed is PlacedRequest<PageRequest> {
  return placed !== undefined && "request" in placed && placed.request.kind === "page";
}

/** Cuts a batch into runs that are read together: adjacent pages of one fork at one LSN. */
function runsOf(batch: readonly Placed[]): Placed[][] {
  const runs: Placed[][] = [];
  let run: Placed[] = [];
  for (const placed of batch) {
    const [first] = run;
    if (isPage(first) && isPage(placed) && isReadWith(first, placed)) {
      run.push(placed);
    } else {
      run = [placed];
      runs.push(run);
    }
  }
  return runs;
}

function isReadWith(a: PlacedRequest<PageRequest>, b: PlacedRequest<PageRequest>): boolean {
  const one = a.request.fork;
  const other = b.request.fork;
  return (
    a.lsn === b.lsn &&
    one.relNumber === other.relNumber &&
    one.fork === other.fork &&
    one.dbOid === other.dbOid &&
    one.spcOid === other.spcOid
  );
}

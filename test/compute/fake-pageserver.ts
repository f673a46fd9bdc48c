/**
 * A pageserver as computes see it, for one branch: it follows the running Postgres with the real receiver, keeps no
 * pages, and hands out the base backups that it was given.
 */
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { create } from "tar";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import {
  type TenantId,
  type TimelineId,
  type WriterEpoch,
  parseTenantId,
  parseTimelineId,
  parseWriterEpoch,
} from "../../src/base/ids.ts";
import { type Lsn, formatLsn } from "../../src/base/lsn.ts";
import type { BranchInfo, PageserverStatus, WriterSource } from "../../src/client/pageserver-client.ts";
import type { RecoveryPlan } from "../../src/client/recovery.ts";
import type { Verification } from "../../src/client/verification.ts";
import type { ComputePageserver } from "../../src/compute/compute-context.ts";
import { readDirectoryState } from "../../src/compute/directory-setup.ts";
import { Receiver } from "../../src/pageserver/receive/receiver.ts";
import { type ControlFile, parseControlFile } from "../../src/postgres/control-file.ts";
import { WalStream } from "../../src/postgres/wal/stream.ts";

const POLL_MS = 5;

interface OpenWriter {
  readonly name: string;
  readonly epoch: WriterEpoch;
  readonly receiver: Receiver;
}

export class FakePageserver implements ComputePageserver, AsyncDisposable {
  readonly tenantId: TenantId = parseTenantId(randomBytes(16).toString("hex"));
  readonly timelineId: TimelineId = parseTimelineId(randomBytes(16).toString("hex"));
  readonly branchName = "main";
  /** End of the branch. */
  end: Lsn;
  /** Calls that tests ask about. */
  readonly backupsTaken: { lsn: Lsn; readOnly: boolean }[] = [];
  away = false;
  private readonly backups = new Map<Lsn, Buffer>();
  private readonly control: ControlFile;
  private writer: OpenWriter | undefined;

  private constructor(control: ControlFile, end: Lsn) {
    this.control = control;
    this.end = end;
  }

  /** A branch whose first moment is a cleanly stopped data directory. */
  static async create(dataDirectory: string): Promise<FakePageserver> {
    const control = parseControlFile(readFileSync(join(dataDirectory, "global", "pg_control")));
    const state = readDirectoryState(dataDirectory);
    if (!state?.shutDown) throw new Error("the directory was not stopped cleanly");
    const server = new FakePageserver(control, state.endLsn);
    await server.keepBackup(dataDirectory);
    return server;
  }

  /** From now on the base backup at the end of this directory's WAL is this directory. */
  async keepBackup(dataDirectory: string): Promise<Lsn> {
    const state = readDirectoryState(dataDirectory);
    if (!state?.shutDown) throw new Error("the directory was not stopped cleanly");
    const chunks: Buffer[] = [];
    const tar = create({ cwd: dataDirectory, portable: true }, ["."]);
    for await (const chunk of tar) chunks.push(chunk);
    this.backups.set(state.endLsn, Buffer.concat(chunks));
    return state.endLsn;
  }

  /** What it was asked to compare; it finds nothing wrong. */
  readonly compared: { directory: string; lsn: Lsn }[] = [];

  verifyDirectory(_: TimelineId, options: { directory: string; lsn: Lsn }): Promise<Verification> {
    this.compared.push(options);
    return Promise.resolve({ pages: 1, differences: [], omitted: 0 });
  }

  planRecovery(): Promise<RecoveryPlan> {
    throw new Error("a fake pageserver has no WAL");
  }

  recoveryBackup(): Promise<AsyncIterable<Uint8Array>> {
    throw new Error("a fake pageserver has no WAL");
  }

  withTenant(): this {
    return this;
  }

  listTenants(): Promise<{ tenantId: TenantId; pgVersion: number | null }[]> {
    return Promise.resolve([{ tenantId: this.tenantId, pgVersion: this.control.version.major }]);
  }

  status(): Promise<PageserverStatus> {
    return this.answer(() => ({ pid: 1, version: "0", state: "ready", startedAt: null, repository: null }));
  }

  listBranches(): Promise<BranchInfo[]> {
    return this.answer(() => [this.branch()]);
  }

  getBranch(name: string): Promise<BranchInfo> {
    return this.answer(() => {
      if (name !== this.branchName) throw new NeonError(ErrorCode.NotFound, `no branch ${name}`);
      return this.branch();
    });
  }

  resolve(_: TimelineId, at: { lsn: Lsn }): Promise<{ readonly lsn: Lsn }> {
    return this.answer(() => ({ lsn: at.lsn }));
  }

  async openWriter(
    _: TimelineId,
    options: { name: string; source: WriterSource; takeover?: boolean },
  ): Promise<{ readonly epoch: WriterEpoch; readonly lsn: Lsn }> {
    await this.answer(() => undefined);
    if (this.writer && this.writer.name !== options.name && !options.takeover) {
      throw new NeonError(ErrorCode.Conflict, `compute "${this.writer.name}" writes to the branch`);
    }
    await this.endWriter();
    const epoch = parseWriterEpoch(randomBytes(16).toString("hex"));
    this.writer = { name: options.name, epoch, receiver: this.follow(options.source, epoch) };
    return { epoch, lsn: this.end };
  }

  async closeWriter(_: TimelineId, epoch: WriterEpoch): Promise<void> {
    await this.answer(() => undefined);
    if (this.writer?.epoch !== epoch) throw new NeonError(ErrorCode.NotFound, "no such writer");
    await this.endWriter();
  }

  async waitForLsn(_: TimelineId, lsn: Lsn, timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    while (this.end < lsn) {
      await this.answer(() => undefined);
      if (performance.now() > deadline)
        throw new NeonError(ErrorCode.Timeout, `still at ${formatLsn(this.end)}`);
      await sleep(POLL_MS);
    }
  }

  baseBackup(
    _: TimelineId,
    options: { lsn?: Lsn | undefined; readOnly: boolean },
  ): Promise<{ readonly lsn: Lsn; readonly stream: AsyncIterable<Uint8Array> }> {
    return this.answer(() => {
      const lsn = options.lsn ?? this.end;
      this.backupsTaken.push({ lsn, readOnly: options.readOnly });
      const tar = this.backups.get(lsn);
      if (!tar) throw new NeonError(ErrorCode.NotFound, `no base backup at ${formatLsn(lsn)}`);
      return { lsn, stream: Readable.from(pieces(tar)) };
    });
  }

  /** Follows nobody from now on, as a pageserver that was killed; `away` as well. */
  async fail(): Promise<void> {
    this.away = true;
    await this.writer?.receiver[Symbol.asyncDispose]();
  }

  get openWriterName(): string | undefined {
    return this.writer?.name;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.endWriter();
  }

  private async endWriter(): Promise<void> {
    await this.writer?.receiver[Symbol.asyncDispose]();
    this.writer = undefined;
  }

  private async answer<T>(value: () => T): Promise<T> {
    if (this.away) throw new NeonError(ErrorCode.Unreachable, "the pageserver is away");
    return Promise.resolve(value());
  }

  private branch(): BranchInfo {
    const { writer } = this;
    const state = writer?.receiver.state;
    return {
      name: this.branchName,
      timelineId: this.timelineId,
      ancestor: null,
      lastRecordLsn: this.end,
      durableLsn: this.end,
      state: "active",
      error: null,
      lagBytes: null,
      writer: writer
        ? { name: writer.name, epoch: writer.epoch, state: state?.kind ?? "", error: state?.error ?? null }
        : null,
      createdAt: null,
      physicalBytes: null,
      followers: [],
      lineage: undefined,
    };
  }

  private follow(source: WriterSource, epoch: WriterEpoch): Receiver {
    const { control } = this;
    const listeners = new Set<() => void>();
    const open = (): WalStream =>
      new WalStream({
        version: control.version,
        segmentSize: control.walSegmentSize,
        systemId: control.systemId,
        startLsn: this.end,
      });
    let stream = open();
    let next: Lsn | undefined;
    // eslint-disable-next-line typescript-eslint/no-this-alias -- the sink's getters have a `this` of their own.
    const server = this;
    const sink = {
      get resumeLsn(): Lsn {
        return server.end;
      },
      get durableLsn(): Lsn {
        return server.end;
      },
      accept(lsn: Lsn, bytes: Uint8Array): void {
        // After a reconnect the rest of a record comes again.
        if (next !== undefined && lsn !== next) stream = open();
        next = (lsn + bytes.length) as Lsn;
        stream.feed(lsn, bytes);
        while (stream.next()) continue;
        server.end = stream.position;
        for (const listener of listeners) listener();
      },
      onDurable(listener: () => void): () => void {
        listeners.add(listener);
        return () => listeners.delete(listener);
      },
    };
    const receiver = new Receiver(
      { source, systemId: control.systemId, epoch, slotName: "pageserver" },
      { sink, clock: { now: () => Date.now() }, log: { info: ignore, warn: ignore, error: ignore } },
    );
    receiver.start();
    return receiver;
  }
}

const ignore = (): void => undefined;

function* pieces(buffer: Buffer): Generator<Buffer> {
  // An odd size, so that headers are cut everywhere.
  for (let at = 0; at < buffer.length; at += 70_001) yield buffer.subarray(at, at + 70_001);
}

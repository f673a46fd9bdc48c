/** A receiver with its WAL log, pointed at a throw-away Postgres. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseWriterEpoch } from "../../src/base/ids.ts";
import { type Lsn, lsnMin, lsnAdd } from "../../src/base/lsn.ts";
import type { ComputeSource } from "../../src/pageserver/receive/compute-source.ts";
import { Receiver, type ReceiverOptions } from "../../src/pageserver/receive/receiver.ts";
import { WalLog, type WalReader } from "../../src/pageserver/receive/wal-log.ts";
import { findEndOfWal } from "../../src/postgres/wal/end-of-wal.ts";
import { WalStream } from "../../src/postgres/wal/stream.ts";
import { versionByMajor } from "../../src/postgres/versions/versions.ts";
import type { TestPostgres } from "../support/postgres.ts";
import { LogSink, PlainFiles } from "./support.ts";

export const EPOCH = parseWriterEpoch("00112233445566778899aabbccddeeff");
export const SEGMENT_SIZE = 16 * 2 ** 20;
const WAIT_MS_MAX = 20_000;

/** Polls until a condition holds. */
export async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + WAIT_MS_MAX;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`waited in vain: ${what}`);
    await sleep(5);
  }
}

export class Harness implements AsyncDisposable {
  readonly server: TestPostgres;
  readonly startLsn: Lsn;
  readonly systemId: bigint;
  readonly directory: string;
  readonly messages: string[] = [];
  log: WalLog;
  sink: LogSink;
  receiver: Receiver;

  private constructor(
    server: TestPostgres,
    start: { lsn: Lsn; systemId: bigint },
    log: WalLog,
    directory: string,
  ) {
    this.server = server;
    this.startLsn = start.lsn;
    this.systemId = start.systemId;
    this.directory = directory;
    this.log = log;
    this.sink = new LogSink(log);
    this.receiver = this.newReceiver();
  }

  /** Starts at the end of the server's WAL; receives once `receiver.start()` is called. */
  static async create(server: TestPostgres): Promise<Harness> {
    await server.query("set synchronous_commit = local");
    const lsn = await flushedLsn(server);
    const systemId = BigInt(await server.value("select system_identifier::text from pg_control_system()"));
    const directory = mkdtempSync(join(tmpdir(), "receive-"));
    const log = await openLog(directory, lsn, async () => lsn);
    return new Harness(server, { lsn, systemId }, log, directory);
  }

  get source(): ComputeSource {
    return { socketDirectory: this.server.socketDir, port: this.server.port, user: "postgres" };
  }

  newReceiver(changes: Partial<ReceiverOptions> = {}): Receiver {
    const note = (data: object, message: string): void => {
      this.messages.push(`${message} ${JSON.stringify(data)}`);
    };
    return new Receiver(
      { source: this.source, systemId: this.systemId, epoch: EPOCH, slotName: "neon_test", ...changes },
      { sink: this.sink, clock: { now: Date.now }, log: { info: note, warn: note, error: note } },
    );
  }

  async streaming(receiver: Receiver = this.receiver): Promise<void> {
    receiver.start();
    await until("streaming", () => receiver.state.kind === "streaming");
  }

  /** Waits until everything that the server has flushed is durable here. */
  async caughtUp(): Promise<Lsn> {
    const lsn = await flushedLsn(this.server);
    await until("caught up", () => this.log.durableLsn >= lsn);
    return lsn;
  }

  /** Reopens the log as after a crash; its end must be that of the last complete record. */
  async reopen(): Promise<void> {
    await this.log[Symbol.asyncDispose]();
    this.log = await openLog(this.directory, this.startLsn, (reader) => this.locateEnd(reader));
    this.sink = new LogSink(this.log);
  }

  /** The ends of all complete records in the log. */
  async recordEnds(): Promise<Set<Lsn>> {
    const { startLsn, systemId } = this;
    const stream = new WalStream({
      version: versionByMajor(17),
      segmentSize: SEGMENT_SIZE,
      systemId,
      startLsn,
    });
    stream.feed(startLsn, await this.log.read(startLsn, this.log.endLsn));
    const ends = new Set<Lsn>([startLsn]);
    for (let record = stream.next(); record; record = stream.next()) ends.add(record.endLsn);
    return ends;
  }

  private async locateEnd(reader: WalReader): Promise<Lsn> {
    const version = versionByMajor(17);
    const found = await findEndOfWal(
      { version, segmentSize: SEGMENT_SIZE, systemId: this.systemId, startLsn: this.startLsn },
      (lsn) => {
        const to = lsnMin(lsnAdd(lsn, 2 ** 20), reader.endLsn);
        return lsn < to ? reader.read(lsn, to) : undefined;
      },
    );
    assert.ok(found.endLsn === this.startLsn || found.recordCount > 0);
    return found.endLsn;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.receiver[Symbol.asyncDispose]();
    await this.log[Symbol.asyncDispose]();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** Flushes the server's WAL and returns its end; the session does not wait for a standby. */
async function flushedLsn(server: TestPostgres): Promise<Lsn> {
  await server.query("select pg_logical_emit_message(true, 'flush', '')");
  return server.lsn();
}

function openLog(
  directory: string,
  startLsn: Lsn,
  locateEnd: (reader: WalReader) => Promise<Lsn>,
): Promise<WalLog> {
  return WalLog.open(
    { directory, segmentSize: SEGMENT_SIZE, startLsn },
    {
      files: new PlainFiles(),
      locateEnd,
      onFatal: (error) => {
        throw error;
      },
    },
  );
}

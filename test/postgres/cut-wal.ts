/** A server's WAL of which the end can be cut off at any byte, and where stock Postgres then sees the end. */
import { closeSync, openSync, readFileSync, readdirSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import type { Client } from "pg";
import { type Lsn, formatLsn, lsnAdd, parseLsn, toLsn } from "../../src/base/lsn.ts";
import { PAGE_SIZE } from "../../src/postgres/constants.ts";
import { type EndOfWal, findEndOfWal } from "../../src/postgres/wal/end-of-wal.ts";
import { parseSegmentName, segmentName, segmentStart } from "../../src/postgres/wal/layout.ts";
import { WalStream, type WalStreamOptions } from "../../src/postgres/wal/stream.ts";
import { versionByMajor } from "../../src/postgres/versions/versions.ts";
import { TestPostgres, embeddedBinDir } from "../support/postgres.ts";
import type { SeededRandom } from "../support/random.ts";

const SEGMENT = 1024 * 1024;
/** The cuts are in the last two pages. */
export const CUT_BYTES = 2 * PAGE_SIZE;

/** A record of the WAL that is cut. */
export interface CutRecord {
  readonly lsn: Lsn;
  readonly endLsn: Lsn;
}

export class CutWal implements AsyncDisposable {
  readonly server: TestPostgres;
  /** The WAL's end before it is cut. */
  readonly endLsn: Lsn;
  /** Records from a little before the cuts on; the first one begins at `options.startLsn`. */
  readonly records: readonly CutRecord[];
  readonly options: WalStreamOptions;
  /** The segment's file, zeros behind the end. */
  private readonly whole: Buffer;
  /** The segment before, whose bytes are in the file when it was recycled. */
  private readonly old: Buffer;
  private readonly path: string;
  /** Where the pages begin that are looked at, and where they end, as offsets into the segment. */
  private readonly from: number;
  private readonly to: number;
  private file: number | undefined;

  /** Runs a server and makes the WAL. The server stays up, some segments further on. */
  static async make(major: number, random: SeededRandom): Promise<CutWal> {
    const version = versionByMajor(major);
    const server = await TestPostgres.create({
      binDir: embeddedBinDir(major),
      initdb: [...version.initdbArguments, "--wal-segsize=1"],
      settings: { wal_keep_size: "1GB", min_wal_size: "2MB", checkpoint_timeout: "1h", fsync: false },
    });
    try {
      await server.query("create table t (i int, v text)");
      // A segment without gaps comes before.
      await server.query("select pg_logical_emit_message(false, 'p', repeat('0123456789abcdef', 150000))");
      await server.query("select pg_switch_wal()");
      const insertLsn = await writeVaried(server, random);
      await server.query("select pg_switch_wal()");
      await server.query("insert into t values (0, 'behind')");
      await server.flushedLsn();
      return new CutWal(server, insertLsn, { version, segmentSize: SEGMENT });
    } catch (error) {
      await server[Symbol.asyncDispose]();
      throw error;
    }
  }

  private constructor(server: TestPostgres, insertLsn: Lsn, options: Omit<WalStreamOptions, "startLsn">) {
    this.server = server;
    const start = segmentStart(insertLsn, SEGMENT);
    this.path = join(server.dataDir, "pg_wal", segmentName(1, insertLsn, SEGMENT));
    this.whole = readFileSync(this.path).fill(0, insertLsn - start);
    this.old = readFileSync(join(server.dataDir, "pg_wal", segmentName(1, lsnAdd(start, -1), SEGMENT)));
    const records = recordsOf(this.whole, { ...options, startLsn: start });
    // At the end of a page the server inserts behind the header of the next, which belongs to no record.
    const endLsn = records.at(-1)?.endLsn ?? start;
    this.endLsn = endLsn;
    const first = records.findIndex((record) => record.endLsn > endLsn - CUT_BYTES - PAGE_SIZE);
    this.records = records.slice(first);
    const startLsn = this.records[0]?.lsn;
    if (startLsn === undefined || startLsn >= endLsn - CUT_BYTES || insertLsn - endLsn > 40)
      throw new Error("the WAL is not as long as it should be");
    this.options = { ...options, startLsn };
    this.from = Math.floor((startLsn - start) / PAGE_SIZE) * PAGE_SIZE;
    this.to = Math.ceil((endLsn - start) / PAGE_SIZE + 1) * PAGE_SIZE;
  }

  /** The last pages, with everything from a place on gone: zeros, or what the file held before it was recycled. */
  cut(at: Lsn, filler: "zeros" | "old bytes"): Buffer {
    const offset = at - segmentStart(this.endLsn, SEGMENT);
    const bytes = Buffer.from(this.whole.subarray(this.from, this.to));
    if (filler === "zeros") bytes.fill(0, offset - this.from);
    else this.old.copy(bytes, offset - this.from, offset, this.to);
    return bytes;
  }

  /** The start of a record shortly before a cut: reading may begin there, which is quicker. */
  shortlyBefore(at: Lsn): Lsn {
    const next = this.records.findIndex((record) => record.endLsn > at);
    return this.records.at(next < 0 ? -2 : Math.max(0, next - 2))?.lsn ?? this.options.startLsn;
  }

  /** Where we see the end, with these pages last, reading from a record on. */
  ours(pages: Uint8Array, startLsn: Lsn): Promise<EndOfWal> {
    const start = segmentStart(this.endLsn, SEGMENT) + this.from;
    return findEndOfWal({ ...this.options, startLsn }, (lsn) => pages.subarray(lsn - start));
  }

  /**
   * Where the server's own reader of WAL (xlogreader.c, which recovery uses, here behind pg_walinspect) sees the end
   * when the file has these pages last. The server wrote the file long ago and does not look at it by itself.
   */
  async theirs(client: Client, pages: Uint8Array, startLsn: Lsn): Promise<Lsn> {
    this.file ??= openSync(this.path, "r+");
    writeSync(this.file, pages, 0, pages.length, this.from);
    try {
      const result = await client.query<{ end: string | null }>({
        name: "end",
        text: "select max(end_lsn)::text as end from pg_get_wal_records_info($1, $2)",
        values: [formatLsn(startLsn), formatLsn(this.endLsn)],
      });
      return lsnOf(result.rows[0]?.end ?? "");
    } catch (error) {
      const message = error instanceof Error ? error.message : "";
      const found = /^could not read WAL at ([0-9A-F/]+): /.exec(message)?.[1];
      if (found === undefined) throw error;
      return lsnOf(found);
    }
  }

  /** Kills the server and lets stock recovery run on a copy with these pages last; returns the last record it redid. */
  async recover(pages: Uint8Array): Promise<Lsn> {
    await this.server.kill();
    await using copy = await this.server.clone();
    const start = segmentStart(this.endLsn, SEGMENT);
    for (const name of readdirSync(join(copy.dataDir, "pg_wal"))) {
      const other = parseSegmentName(name, SEGMENT);
      if (other !== undefined && other.startLsn > start) rmSync(join(copy.dataDir, "pg_wal", name));
    }
    const segment = Buffer.from(this.whole);
    segment.set(pages, this.from);
    writeFileSync(join(copy.dataDir, "pg_wal", segmentName(1, this.endLsn, SEGMENT)), segment);
    await copy.start();
    await copy.stop();
    return lsnOf(/redo done at ([0-9A-F/]+)/.exec(copy.log())?.[1] ?? "");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.file !== undefined) closeSync(this.file);
    this.file = undefined;
    await this.server[Symbol.asyncDispose]();
  }
}

/** Records of many lengths, so that all kinds of them lie across page boundaries; returns their end. */
async function writeVaried(server: TestPostgres, random: SeededRandom): Promise<Lsn> {
  const before = await server.lsn("select pg_current_wal_insert_lsn()");
  const long = random.between(4, 7) * PAGE_SIZE;
  for (let length = 0; length < long;) {
    const size = random.pick([1, 7, 20, 100, 700, 3000]) + random.below(8);
    if (random.chance(0.3)) await server.query(`insert into t values (1, repeat('x', ${size % 1000}))`);
    else await server.query(`select pg_logical_emit_message(false, 'p', repeat('y', ${size}))`);
    length = (await server.lsn("select pg_current_wal_insert_lsn()")) - before;
  }
  // The last record is long.
  await server.query("select pg_logical_emit_message(false, 'p', repeat('z', 2500))");
  return server.lsn("select pg_current_wal_insert_lsn()");
}

function recordsOf(segment: Uint8Array, options: WalStreamOptions): CutRecord[] {
  const stream = new WalStream(options);
  stream.feed(options.startLsn, segment);
  const records: CutRecord[] = [];
  try {
    for (let record = stream.next(); record; record = stream.next())
      records.push({ lsn: record.lsn, endLsn: record.endLsn });
  } catch {
    // The end.
  }
  return records;
}

function lsnOf(text: string): Lsn {
  const lsn = parseLsn(text);
  if (lsn === undefined) throw new Error(`no LSN: ${text}`);
  return toLsn(lsn);
}

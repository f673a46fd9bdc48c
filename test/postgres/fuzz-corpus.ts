/** Real WAL to damage, and real pages to apply damaged records to. */
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { type Lsn, toLsn } from "../../src/base/lsn.ts";
import { PAGE_SIZE, rmgrName } from "../../src/postgres/constants.ts";
import type { PageBuffer } from "../../src/postgres/page/layout.ts";
import type { PgVersion } from "../../src/postgres/versions/version.ts";
import { parseSegmentName } from "../../src/postgres/wal/layout.ts";
import type { WalRecord } from "../../src/postgres/wal/record.ts";
import { WalStream, type WalStreamOptions } from "../../src/postgres/wal/stream.ts";
import { GENERATOR_SETTINGS, generate } from "../support/generator.ts";
import { TestPostgres, embeddedBinDir } from "../support/postgres.ts";
import type { SeededRandom } from "../support/random.ts";
import { Replay, readControl } from "./redo-replay.ts";

/** A record as it was, and a page that it changes, as it was before. */
export interface Sample {
  readonly version: PgVersion;
  readonly lsn: Lsn;
  readonly endLsn: Lsn;
  readonly bytes: Uint8Array;
  /** Undefined for a record without blocks. */
  readonly page: Uint8Array | undefined;
  readonly blockIndex: number;
}

/** A run of WAL from a place where a record ends. */
export interface WalPiece {
  readonly options: WalStreamOptions;
  readonly bytes: Uint8Array;
  /** Where records begin, as offsets into the bytes. */
  readonly starts: readonly number[];
}

export interface Corpus {
  readonly samples: readonly Sample[];
  readonly pieces: readonly WalPiece[];
}

const SAMPLES_PER_KIND = 12;
const RECORD_BYTES_MAX = 20_000;
const PIECE_BYTES_MAX = 4 << 20;

/** Keeps some records of each kind and block. */
class Sampler {
  readonly samples: Sample[] = [];
  private readonly seen = new Map<string, number>();
  private readonly random: SeededRandom;

  constructor(random: SeededRandom) {
    this.random = random;
  }

  take(record: WalRecord, version: PgVersion, blockIndex: number, page: PageBuffer | undefined): void {
    if (record.length > RECORD_BYTES_MAX) return;
    const block = record.blocks[blockIndex];
    const kind = `${version.major} ${rmgrName(record.rmgr)} ${record.info & 0xf0} ${page === undefined ? "" : block?.id}`;
    const count = this.seen.get(kind) ?? 0;
    // The first ones, and then a few from all over.
    if (count >= SAMPLES_PER_KIND && !this.random.chance(0.0005)) return;
    this.seen.set(kind, count + 1);
    this.samples.push({
      version,
      lsn: record.lsn,
      endLsn: record.endLsn,
      bytes: record.bytes.slice(record.offset, record.offset + record.length),
      page: page?.bytes.slice(),
      blockIndex,
    });
  }
}

/** The records of a server that has been generated upon, and the WAL with which initdb makes another version. */
export async function makeCorpus(random: SeededRandom): Promise<Corpus> {
  const sampler = new Sampler(random);
  const pieces: WalPiece[] = [];
  await using server = await TestPostgres.create({
    settings: {
      ...GENERATOR_SETTINGS,
      full_page_writes: false,
      synchronous_commit: "off",
      wal_keep_size: "10GB",
    },
    start: false,
  });
  await using base = await server.clone();
  await server.start();
  await generate(server, random, { clients: 1 });
  await server.stop();
  const { version } = readControl(base.dataDir);
  const replay = new Replay(base.dataDir, {
    hintBitsLogged: false,
    observer: (record, index, page) => {
      sampler.take(record, version, index, page);
    },
    onRecord: (record) => {
      if (record.blockCount === 0) sampler.take(record, version, 0, undefined);
    },
  });
  replay.run(server.dataDir);
  pieces.push(firstPiece(server));

  await using older = await TestPostgres.create({ binDir: embeddedBinDir(14), start: false });
  pieces.push(firstPiece(older));
  return { samples: sampler.samples, pieces };
}

/** WAL from the start of the first segment that is there. */
function firstPiece(server: TestPostgres): WalPiece {
  const { version, walSegmentSize: segmentSize } = readControl(server.dataDir);
  const segments = readdirSync(join(server.dataDir, "pg_wal"))
    .filter((name) => parseSegmentName(name, segmentSize) !== undefined)
    .sort();
  const [name = ""] = segments;
  const startLsn = parseSegmentName(name, segmentSize)?.startLsn ?? toLsn(0);
  const bytes = new Uint8Array(readFileSync(join(server.dataDir, "pg_wal", name))).subarray(
    0,
    PIECE_BYTES_MAX,
  );
  const options = { version, segmentSize, startLsn };
  const stream = new WalStream(options);
  stream.feed(startLsn, bytes);
  const starts: number[] = [];
  try {
    for (let record = stream.next(); record; record = stream.next()) starts.push(record.lsn - startLsn);
  } catch {
    // The WAL ends within the piece.
  }
  const end = Math.min(bytes.length, stream.position - startLsn);
  return { options, bytes: bytes.slice(0, end - (end % PAGE_SIZE)), starts: starts.filter((at) => at < end) };
}

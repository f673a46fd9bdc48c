/**
 * Compares our redo with Postgres', record by record. With `wal_consistency_checking` on, a compute puts into its
 * records the pages as they must be afterwards. Each such page is read the ordinary way as of the end of the record,
 * and both are compared under the mask of the resource manager, as a standby of Postgres would do.
 * Source of the rules: PostgreSQL 14-18, src/backend/access/transam/xlogrecovery.c, verifyBackupPageConsistency.
 */
import { ErrorCode, NeonError, messageOf } from "../../base/errors.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import { Fork, PAGE_SIZE, rmgrName } from "../../postgres/constants.ts";
import { PageBuffer, isNewPage, pageLsn } from "../../postgres/page/layout.ts";
import { maskPage } from "../../postgres/redo/mask.ts";
import { formatRelation } from "../../postgres/relation.ts";
import type { PgVersion } from "../../postgres/versions/version.ts";
import { restoreBlockImage } from "../../postgres/wal/image.ts";
import type { BlockRef, WalRecord } from "../../postgres/wal/record.ts";
import type { PageReader } from "../read/page-reader.ts";
import type { Ingest } from "./ingest.ts";
import { Kind } from "./keyspace.ts";

/** Bit of a record's info: every block has an image for checking. */
const CHECK_CONSISTENCY = 0x02;

/** The page that we make of a record is not the one that the compute had. */
export class RedoDifference extends NeonError {
  constructor(message: string, data: Record<string, string | number>) {
    super(ErrorCode.Corrupt, message, {
      data,
      hint: "The branch stays readable up to the record before. Without verify_redo the pageserver would go on.",
    });
    this.name = "RedoDifference";
  }
}

export class RedoVerifier {
  private readonly reader: PageReader;
  private readonly version: PgVersion;
  private readonly ours = new PageBuffer();
  private readonly theirs = new PageBuffer();
  /** Pages compared so far. */
  pageCount = 0;

  constructor(options: { reader: PageReader; version: PgVersion }) {
    this.reader = options.reader;
    this.version = options.version;
  }

  /** Whether the record has something to compare with. */
  wants(record: WalRecord): boolean {
    return (record.info & CHECK_CONSISTENCY) !== 0;
  }

  /** To be called after the record was ingested, while it is still valid. Throws `RedoDifference`. */
  async check(record: WalRecord): Promise<void> {
    for (let i = 0; i < record.blockCount; i++) {
      const block = record.blocks[i] as BlockRef;
      // An image that redo applies is the page itself. The free space map is not kept.
      if (!block.hasImage || block.applyImage || block.fork === Fork.FreeSpaceMap) continue;
      const { spcOid, dbOid, relNumber, fork, blockNumber } = block;
      const key = { kind: Kind.RelationBlock, spcOid, dbOid, relNumber, fork, block: blockNumber };
      this.compare(record, block, await this.reader.value(key, record.endLsn));
      this.pageCount++;
    }
  }

  private compare(record: WalRecord, block: BlockRef, page: Uint8Array | undefined): void {
    const { ours, theirs } = this;
    restoreBlockImage(record, block, this.version, theirs.bytes);
    if (page === undefined) ours.bytes.fill(0);
    else ours.bytes.set(page);
    if (isNewPage(ours) && isNewPage(theirs)) return;
    if (pageLsn(ours) > record.endLsn) return;
    try {
      maskPage(record.rmgr, ours, block.blockNumber);
      maskPage(record.rmgr, theirs, block.blockNumber);
    } catch (error) {
      throw difference(record, block, `it cannot be masked: ${messageOf(error)}`, {});
    }
    const at = firstDifference(ours.bytes, theirs.bytes);
    if (at === undefined) return;
    const [here, there] = [ours.bytes[at] ?? 0, theirs.bytes[at] ?? 0];
    throw difference(record, block, `byte ${at} is ${hex(here)} here and ${hex(there)} there`, {
      byte: at,
      ours: here,
      theirs: there,
    });
  }
}

/** Where two pages differ first. */
export function firstDifference(a: Uint8Array, b: Uint8Array): number | undefined {
  if (Buffer.compare(a, b) === 0) return undefined;
  for (let i = 0; i < PAGE_SIZE; i++) if (a[i] !== b[i]) return i;
  return undefined;
}

/**
 * Ingests a record and verifies what became of it. If it is not right, the record is taken back: the timeline ends
 * before it, and what was put for it stays in memory, out of sight of every reader.
 */
export function ingestVerified(
  ingest: Ingest,
  verifier: RedoVerifier | undefined,
  record: WalRecord,
): Promise<void> | undefined {
  const { lastRecordLsn, previousLsn } = ingest.state;
  const pending = ingest.ingest(record);
  if (verifier === undefined || !verifier.wants(record)) return pending;
  return verifyAfter(pending, verifier, record).catch((error: unknown) => {
    takeBack(ingest, lastRecordLsn, previousLsn);
    throw error;
  });
}

async function verifyAfter(
  pending: Promise<void> | undefined,
  verifier: RedoVerifier,
  record: WalRecord,
): Promise<void> {
  await pending;
  await verifier.check(record);
}

/** Whether WAL is whole, but we do not know what to do with a record of it, or do it wrong. */
export function isAboutRecord(error: unknown): boolean {
  return (
    error instanceof RedoDifference || (error instanceof NeonError && error.code === ErrorCode.Unsupported)
  );
}

function takeBack(ingest: Ingest, lastRecordLsn: Lsn, previousLsn: Lsn): void {
  ingest.state.lastRecordLsn = lastRecordLsn;
  ingest.state.previousLsn = previousLsn;
}

function difference(
  record: WalRecord,
  block: BlockRef,
  what: string,
  more: Record<string, number>,
): RedoDifference {
  const relation = formatRelation(block);
  const lsn = formatLsn(record.lsn);
  const info = hex(record.info);
  const message =
    `redo of ${rmgrName(record.rmgr)} record ${info} at ${lsn} differs from the compute's page, ` +
    `relation ${relation}, block ${block.blockNumber}: ${what}`;
  return new RedoDifference(message, {
    lsn,
    rmgr: rmgrName(record.rmgr),
    info,
    relation,
    block: block.blockNumber,
    ...more,
  });
}

function hex(value: number): string {
  return `0x${value.toString(16).padStart(2, "0")}`;
}

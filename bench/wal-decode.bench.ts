/**
 * How fast raw WAL becomes records: page headers, links, CRC and block headers, as `WalStream` does for everything
 * that a compute sends.
 *
 *   node bench/wal-decode.bench.ts [records]
 *
 * Two shared cores, Node 24: 4.4 M records/s (320 MB/s) with 20 bytes of block data, 3.6 M (550 MB/s) with 100, 0.8 M
 * (830 MB/s) with 1000. Half of the time is the CRC.
 */
import { formatLsn, toLsn } from "../src/base/lsn.ts";
import { crc32cUpdate } from "../src/base/crc32c.ts";
import { POSTGRES_17 } from "../src/postgres/versions/postgres-17.ts";
import { encodePageHeader } from "../src/postgres/wal/page-header.ts";
import { WalStream } from "../src/postgres/wal/stream.ts";

const SEGMENT = 16 * 1024 * 1024;
const START = toLsn(SEGMENT);
const PAGE = 8192;

/** Raw WAL of `count` records like heap inserts, with `dataLength` bytes of block data each. */
function makeWal(count: number, dataLength: number): Uint8Array {
  const recordLength = 24 + 4 + 12 + 4 + 2 + dataLength + 3;
  const space = (recordLength + 8) * count;
  const wal = new Uint8Array(space + (space / PAGE) * 30 + SEGMENT / 100);
  const record = new Uint8Array(recordLength);
  const view = new DataView(record.buffer);
  view.setUint32(0, recordLength, true);
  record[17] = 10;
  record.set([0, 0x20, dataLength & 255, dataLength >> 8], 24);
  view.setUint32(28, 1663, true);
  view.setUint32(32, 5, true);
  view.setUint32(36, 16384, true);
  record.set([255, 3], 44);
  let at = 0;
  let previous = 0;
  const header = (remainingLength: number): void => {
    const lsn = toLsn(START + at);
    const fields = {
      magic: POSTGRES_17.walPageMagic,
      segmentSize: SEGMENT,
      systemId: 1n,
      timeline: 1,
      remainingLength,
    };
    at += encodePageHeader(wal, at, lsn, fields);
  };
  for (let i = 0; i < count; i++) {
    if (at % PAGE === 0) header(0);
    view.setUint32(4, i, true);
    view.setUint32(8, previous, true);
    view.setUint32(40, i, true);
    const state = crc32cUpdate(crc32cUpdate(-1, record, 24, recordLength), record, 0, 20);
    view.setInt32(20, state ^ -1, true);
    previous = START + at;
    for (let done = 0; done < recordLength;) {
      if (at % PAGE === 0) header(recordLength - done);
      const size = Math.min(recordLength - done, PAGE - (at % PAGE));
      wal.set(record.subarray(done, done + size), at);
      done += size;
      at += size;
    }
    at += (8 - (at % 8)) % 8;
  }
  return wal.subarray(0, at);
}

function run(name: string, wal: Uint8Array, chunk: number): void {
  const stream = new WalStream({ version: POSTGRES_17, segmentSize: SEGMENT, systemId: 1n, startLsn: START });
  let records = 0;
  let check = 0;
  const started = performance.now();
  for (let at = 0; at < wal.length; at += chunk) {
    stream.feed(toLsn(START + at), wal.subarray(at, at + chunk));
    for (let record = stream.next(); record; record = stream.next()) {
      records++;
      check = (check + record.xid + (record.blocks[0]?.blockNumber ?? 0)) | 0;
    }
  }
  const ms = performance.now() - started;
  console.log(
    `${name.padEnd(34)} ${(records / ms / 1000).toFixed(2)} M records/s  ${(wal.length / ms / 1000).toFixed(0)} MB/s  (${records} records to ${formatLsn(stream.position)}, check ${check})`,
  );
}

const count = Number(process.argv[2] ?? 1_000_000);
for (const dataLength of [20, 100, 1000]) {
  const wal = makeWal(dataLength > 500 ? Math.ceil(count / 10) : count, dataLength);
  for (let round = 0; round < 3; round++)
    run(`${dataLength} bytes of data, chunks of 128 KiB`, wal, 128 * 1024);
  run(`${dataLength} bytes of data, chunks of 1 KiB`, wal, 1024);
}

/**
 * The manifest of a base backup: what files it has, with their checksums, and what WAL they need. pg_verifybackup checks
 * a directory against it.
 * Source: PostgreSQL 17 documentation, "Backup Manifest Format".
 */
import { createHash } from "node:crypto";
import { crc32cUpdate } from "../../base/crc32c.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import type { BackupTarget } from "../basebackup/backup-target.ts";
import type { ClusterIdentity } from "../timeline/served-timeline.ts";

/** From here on a manifest names the cluster. */
const SYSTEM_IDENTIFIER_MAJOR = 17;

interface ManifestFile {
  readonly path: string;
  readonly sizeBytes: number;
  readonly checksum: string;
}

export class BackupManifest {
  private readonly cluster: ClusterIdentity;
  private readonly time: string;
  private readonly files: ManifestFile[] = [];

  constructor(cluster: ClusterIdentity, nowMs: number) {
    this.cluster = cluster;
    this.time = `${new Date(nowMs).toISOString().slice(0, 19).replace("T", " ")} GMT`;
  }

  /** A target that takes note of what is written, and hands it on. */
  watch(target: BackupTarget): BackupTarget {
    let path = "";
    let sizeBytes = 0;
    let crc = -1;
    const watched: BackupTarget = {
      directory: (name) => target.directory(name),
      file: (name, bytes) => {
        watched.beginFile(name, bytes.length);
        watched.write(bytes);
        watched.endFile();
      },
      beginFile: (name, size) => {
        path = name;
        sizeBytes = size;
        crc = -1;
        target.beginFile(name, size);
      },
      write: (bytes) => {
        crc = crc32cUpdate(crc, bytes, 0, bytes.length);
        target.write(bytes);
      },
      endFile: () => {
        target.endFile();
        // WAL is vouched for by its own checksums.
        if (!path.startsWith("pg_wal/")) this.files.push({ path, sizeBytes, checksum: hexOf(~crc) });
      },
    };
    return watched;
  }

  /** The text, which ends with its own checksum. */
  finish(wal: { startLsn: Lsn; endLsn: Lsn; timelineNumber: number }): Uint8Array {
    const { pgVersion, systemId } = this.cluster;
    const named = pgVersion.major >= SYSTEM_IDENTIFIER_MAJOR;
    const head = named
      ? `{ "PostgreSQL-Backup-Manifest-Version": 2,\n"System-Identifier": ${systemId},\n`
      : `{ "PostgreSQL-Backup-Manifest-Version": 1,\n`;
    const files = this.files.map(
      ({ path, sizeBytes, checksum }) =>
        `{ "Path": ${JSON.stringify(path)}, "Size": ${sizeBytes}, "Last-Modified": "${this.time}", "Checksum-Algorithm": "CRC32C", "Checksum": "${checksum}" }`,
    );
    const range = `{ "Timeline": ${wal.timelineNumber}, "Start-LSN": "${formatLsn(wal.startLsn)}", "End-LSN": "${formatLsn(wal.endLsn)}" }`;
    const text = `${head}"Files": [\n${files.join(",\n")}\n],\n"WAL-Ranges": [\n${range}\n],\n`;
    const checksum = createHash("sha256").update(text).digest("hex");
    return new TextEncoder().encode(`${text}"Manifest-Checksum": "${checksum}"}\n`);
  }
}

/** As Postgres prints a CRC-32C: its bytes in the order of memory. */
function hexOf(crc: number): string {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(crc);
  return bytes.toString("hex");
}

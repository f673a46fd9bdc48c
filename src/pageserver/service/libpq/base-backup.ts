/**
 * `BASE_BACKUP` of the replication protocol, for stock pg_basebackup: a data directory as of the end of the branch. It
 * says of itself that it was taken from a standby, since its WAL has no mark of a backup: it is consistent where its
 * files are from.
 * Source: PostgreSQL 17 documentation, "Streaming Replication Protocol"; the older form for 14.
 */
import { ByteWriter } from "../../../base/bytes.ts";
import { ErrorCode, NeonError } from "../../../base/errors.ts";
import { type Lsn, formatLsn } from "../../../base/lsn.ts";
import type { Clock } from "../../../base/seams.ts";
import type { Column } from "../../../pgwire/encode-backend.ts";
import { segmentName } from "../../../postgres/wal/layout.ts";
import { BACKUP_LABEL } from "../../basebackup/backup-label.ts";
import { BackupManifest } from "../../replication/backup-manifest.ts";
import { type StandbyBackup, standbyBackup } from "../../replication/standby-backup.ts";
import { noCheckpoint } from "../../replication/standby-start.ts";
import type { CommandSession } from "./command.ts";
import type { FollowedBranch } from "./replication-branch.ts";
import type { ReplicationWords } from "./replication-grammar.ts";

/** Options that are followed by a value where there are no brackets. */
const VALUED: ReadonlySet<string> = new Set(["MAX_RATE", "LABEL", "MANIFEST", "MANIFEST_CHECKSUMS"]);
/** Of an archive in one message at most: no client should have to take more at once. */
const PIECE_BYTES = 256 * 1024;
const LABEL_LENGTH_MAX = 1024;
/** How long the WAL of a checkpoint may take to arrive. */
const CHECKPOINT_TIMEOUT_MS = 5 * 60_000;
/** From here on archives are sent in one copy with messages of their own. */
const ONE_COPY_MAJOR = 15;
const RECORD_POSITION: readonly Column[] = [
  { name: "recptr", type: "text" },
  { name: "tli", type: "int8" },
];
const TABLESPACES: readonly Column[] = [
  { name: "spcoid", type: "text" },
  { name: "spclocation", type: "text" },
  { name: "size", type: "int8" },
];

export function runBaseBackup(
  words: ReplicationWords,
  branch: FollowedBranch,
  clock: Clock,
): (session: CommandSession) => Promise<string> {
  const options = words.options(VALUED);
  checkOptions(options);
  return async (session) => {
    const { timeline } = branch;
    using backup = await backupFromCheckpoint(branch);
    const timelineNumber = (await timeline.wal?.timelineNumber()) ?? 1;
    const position = (lsn: Lsn) => [formatLsn(lsn), String(timelineNumber)];
    const redoLsn = backup.start?.redoLsn ?? backup.lsn;
    await session.resultSet(RECORD_POSITION, [position(redoLsn)]);
    await session.resultSet(TABLESPACES, [[null, null, null]]);
    await new BackupRun(session, branch, { options, clock, timelineNumber }).send(backup);
    await session.resultSet(RECORD_POSITION, [position(backup.lsn)]);
    return "BASE_BACKUP";
  };
}

/** A backup that begins at a checkpoint; as a primary does, the compute that writes makes one where there is none yet. */
async function backupFromCheckpoint({ tenant, timeline }: FollowedBranch): Promise<StandbyBackup> {
  const existing = await backupOrReason(tenant, timeline);
  if (!(existing instanceof NeonError)) return existing;
  if (!timeline.writer) throw existing;
  await timeline.syncWithWriter(CHECKPOINT_TIMEOUT_MS, { checkpoint: true });
  const made = await backupOrReason(tenant, timeline);
  if (made instanceof NeonError) throw made;
  return made;
}

/** The backup, or that there is no checkpoint for it. */
async function backupOrReason(
  tenant: FollowedBranch["tenant"],
  timeline: FollowedBranch["timeline"],
): Promise<StandbyBackup | NeonError> {
  try {
    const backup = await standbyBackup(tenant, timeline, timeline.durableWalLsn);
    if (backup.start !== undefined) return backup;
    backup[Symbol.dispose]();
    return noCheckpoint(backup.lsn);
  } catch (error) {
    if (error instanceof NeonError && error.code === ErrorCode.NotFound) return error;
    throw error;
  }
}

function checkOptions(options: ReadonlyMap<string, string>): void {
  const target = options.get("TARGET");
  const unsupported = options.has("COMPRESSION")
    ? "compression by the server"
    : target !== undefined && target !== "client"
      ? `the target "${target.slice(0, 40)}"`
      : options.has("INCREMENTAL")
        ? "an incremental backup"
        : undefined;
  if (unsupported === undefined) return;
  throw new NeonError(ErrorCode.Unsupported, `a base backup of a branch does not know ${unsupported}`, {
    hint: "Leave it out; with --compress=client-gzip pg_basebackup compresses by itself.",
  });
}

class BackupRun {
  private readonly session: CommandSession;
  private readonly branch: FollowedBranch;
  private readonly options: ReadonlyMap<string, string>;
  private readonly nowMs: number;
  private readonly timelineNumber: number;

  constructor(
    session: CommandSession,
    branch: FollowedBranch,
    about: { options: ReadonlyMap<string, string>; clock: Clock; timelineNumber: number },
  ) {
    this.session = session;
    this.branch = branch;
    this.options = about.options;
    this.nowMs = about.clock.now();
    this.timelineNumber = about.timelineNumber;
  }

  async send(backup: StandbyBackup): Promise<void> {
    const { cluster } = this.branch.timeline;
    const manifest = this.isOn("MANIFEST") ? new BackupManifest(cluster, this.nowMs) : undefined;
    const isOneCopy = cluster.pgVersion.major >= ONE_COPY_MAJOR;
    const stream = backup.stream({
      nowMs: this.nowMs,
      wal: this.isOn("WAL"),
      marker: { path: BACKUP_LABEL, bytes: this.label(backup) },
      terminated: isOneCopy,
      ...(manifest ? { target: (tar) => manifest.watch(tar) } : {}),
    });
    const range = { startLsn: backup.start?.redoLsn ?? backup.lsn, endLsn: backup.lsn };
    const end = (): Uint8Array | undefined =>
      manifest?.finish({ ...range, timelineNumber: this.timelineNumber });
    if (isOneCopy) await this.sendOneCopy(stream, end);
    else await this.sendCopies(stream, end);
  }

  private async sendOneCopy(
    stream: AsyncIterable<Uint8Array>,
    manifest: () => Uint8Array | undefined,
  ): Promise<void> {
    const out = await this.session.copyOut();
    await out.send(new ByteWriter().u8(letter("n")).cstring("base.tar").cstring("").finish());
    let sentBytes = 0;
    for await (const chunk of stream) {
      for (let at = 0; at < chunk.length; at += PIECE_BYTES) {
        await out.send(tagged("d", chunk.subarray(at, at + PIECE_BYTES)));
      }
      sentBytes += chunk.length;
      if (this.isOn("PROGRESS")) {
        await out.send(new ByteWriter().u8(letter("p")).i64be(BigInt(sentBytes)).finish());
      }
    }
    const bytes = manifest();
    if (bytes === undefined) return;
    await out.send(Uint8Array.of(letter("m")));
    await out.send(tagged("d", bytes));
  }

  private async sendCopies(
    stream: AsyncIterable<Uint8Array>,
    manifest: () => Uint8Array | undefined,
  ): Promise<void> {
    const out = await this.session.copyOut();
    for await (const chunk of stream) await out.send(chunk);
    const bytes = manifest();
    if (bytes === undefined) return;
    const second = await this.session.copyOut();
    await second.send(bytes);
  }

  private isOn(option: string): boolean {
    const value = this.options.get(option)?.toLowerCase();
    return value !== undefined && !["false", "off", "no", "0"].includes(value);
  }

  /** Source: PostgreSQL 14-18, src/backend/access/transam/xlogbackup.c. */
  private label({ start, lsn }: StandbyBackup): Uint8Array {
    const redoLsn = start?.redoLsn ?? lsn;
    const segment = segmentName(this.timelineNumber, redoLsn, this.branch.timeline.cluster.segmentSize);
    const time = new Date(this.nowMs).toISOString().slice(0, 19).replace("T", " ");
    const label = (this.options.get("LABEL") ?? "base backup")
      .slice(0, LABEL_LENGTH_MAX)
      .replaceAll(/[\r\n]/g, " ");
    const lines = [
      `START WAL LOCATION: ${formatLsn(redoLsn)} (file ${segment})`,
      `CHECKPOINT LOCATION: ${formatLsn(start?.checkpointLsn ?? lsn)}`,
      "BACKUP METHOD: streamed",
      "BACKUP FROM: standby",
      `START TIME: ${time} UTC`,
      `LABEL: ${label}`,
      `START TIMELINE: ${this.timelineNumber}`,
    ];
    return new TextEncoder().encode(`${lines.join("\n")}\n`);
  }
}

function letter(text: string): number {
  return text.charCodeAt(0);
}

function tagged(tag: string, bytes: Uint8Array): Uint8Array {
  const payload = new Uint8Array(1 + bytes.length);
  payload[0] = letter(tag);
  payload.set(bytes, 1);
  return payload;
}

/**
 * What tenants and the HTTP service need of a timeline, and how they get one. `Timeline` is the real one; tests of
 * the service bring their own.
 */
import type { BackupTurns } from "../basebackup/backup-turns.ts";
import type { TimelineId, WriterEpoch } from "../../base/ids.ts";
import type { Lsn } from "../../base/lsn.ts";
import type { PgVersion } from "../../postgres/versions/version.ts";
import type { AdoptedLayer, Retention, TimelineStore } from "../../storage/store.ts";
import type { RecoverySource } from "../verify/recovery.ts";
import type { MadeBy } from "../verify/compare-pages.ts";
import type { Verification, VerifyOptions } from "../verify/verify-directory.ts";
import type { WalIntake } from "./wal-intake.ts";
import type { TimelineWal } from "./timeline-wal.ts";
import type { Maintenance } from "../compaction/maintenance.ts";
import type { Leases } from "./leases.ts";
import type { TenantOverrides } from "./tenant-settings.ts";
import type { AncestorPoint, HistoryEntry, WriterSource } from "./metadata.ts";

/** What the timelines of a tenant have in common, learnt from pg_control at import. */
export interface ClusterIdentity {
  readonly pgVersion: PgVersion;
  readonly systemId: bigint;
  /** Size of a WAL segment in bytes. */
  readonly segmentSize: number;
}

/** What the files of an open timeline must hold by now, and who writes to them: for a check of those files. */
export interface TimelineWork {
  readonly store: TimelineStore | undefined;
  /** WAL behind the layers that is known to be on disk; undefined if none is taken in. */
  readonly wal: StoredWal | undefined;
}

export interface StoredWal {
  /** End of the last record that is in the layers; the start of that record, where it could be found out. */
  readonly from: Lsn;
  readonly previousLsn: Lsn | undefined;
  readonly to: Lsn;
  /** Postgres' own timeline number, part of the names of segments. */
  readonly timelineNumber: number;
}

/** The compute whose WAL a timeline follows, as it stands now. */
export interface WriterStatus {
  readonly name: string;
  readonly epoch: WriterEpoch;
  /** `connecting`, `streaming`, `waiting` or `stopped`. */
  readonly state: string;
  /** Why it is not streaming. */
  readonly error: string | undefined;
  /** Where its WAL is fetched. */
  readonly source?: WriterSource;
  /** End of what was received, and when the compute said anything last, milliseconds since 1970. */
  readonly heard?: { readonly lsn: Lsn; readonly unixMs: number } | undefined;
}

/** What pushing and pulling needs of a timeline beyond what it serves. */
export interface TimelineExchange {
  readonly store: TimelineStore;
  /** Puts what is in memory into layer files. */
  checkpoint(): Promise<void>;
  /**
   * Makes the timeline longer by layers from elsewhere; nobody may write to it, and everything must be in layer files.
   * Its history goes first, so that no WAL is ever without its writer. The files are moved.
   */
  extend(change: {
    history: readonly HistoryEntry[];
    layers: readonly AdoptedLayer[];
    endLsn: Lsn;
    /** What of the history is there, if not all of it. */
    retention?: Retention;
  }): Promise<void>;
  /** Takes in WAL that somebody has kept, at the end of the timeline, to which nobody may write. */
  takeWal(feed: (intake: WalIntake) => Promise<void>): Promise<void>;
}

export interface ServedTimeline {
  /** Undefined where pushing and pulling is not possible. */
  readonly exchange?: TimelineExchange | undefined;
  /** Compaction and garbage collection; undefined where there is none. */
  readonly maintenance?: Maintenance | undefined;
  /** What uses points of it; defined together with `maintenance`. */
  readonly leases?: Leases | undefined;
  /** Its WAL, for those who follow it. */
  readonly wal?: TimelineWal | undefined;
  readonly id: TimelineId;
  readonly ancestor: AncestorPoint | undefined;
  /** Of a copy of a root under another id: the id that stands for what was imported. */
  readonly importId?: TimelineId | undefined;
  readonly cluster: ClusterIdentity;
  /** What lies below is in the ancestor, or nowhere. */
  readonly startLsn: Lsn;
  readonly history: readonly HistoryEntry[];
  /** Milliseconds since 1970. */
  readonly createdAt: number;
  /** End of the last ingested record. */
  readonly lastRecordLsn: Lsn;
  /** End of the last complete record whose WAL is on disk. */
  readonly durableWalLsn: Lsn;
  readonly state: "active" | "stopped" | "broken";
  /** Why it is stopped or broken. */
  readonly error: string | undefined;
  readonly writer: WriterStatus | undefined;
  /** From here on everything of its own is readable; below, only what branches and computes stand on. */
  readonly gcCutoffLsn?: Lsn;
  /** How far the compute's flushed WAL is ahead of us, in bytes, as far as we know. */
  readonly lagBytes: number | undefined;
  /** Pages compared with those of the compute since the start; undefined if that is not asked for, or no WAL came. */
  readonly verifiedPages: number | undefined;
  /** Size of its own files, ancestors' not included. */
  readonly physicalBytes: number;

  /** Gives a compute the right to write, under a fresh epoch, at the end of the timeline. None may have it now. */
  openWriter(request: { name: string; source: WriterSource }): Promise<{ epoch: WriterEpoch; lsn: Lsn }>;
  /** Takes the right away; afterwards no WAL of that epoch is accepted. */
  closeWriter(epoch: WriterEpoch, reason: string): Promise<void>;
  /** Until everything up to `lsn` is ingested and durable. Throws `timeout` with the LSN that was reached. */
  waitForLsn(lsn: Lsn, timeoutMs: number): Promise<void>;
  /** Until every commit that has returned on the open writer, and a checkpoint if one is asked for, is ingested and durable. */
  syncWithWriter(timeoutMs: number, options?: { readonly checkpoint?: boolean }): Promise<void>;
  /** End of the last commit at or before the time. */
  resolveTimestamp(unixMs: number): Promise<Lsn>;
  /** Time of the last commit at or before an LSN, in milliseconds since 1970; null if there was none. */
  commitTimeAt?(lsn: Lsn): Promise<number | null>;
  /** Whether a commit later than the time has been ingested. */
  hasCommitAfter(unixMs: number): Promise<boolean>;
  /** The last record that ends at or below `lsn`: its end, and the start of it. */
  recordBoundary(lsn: Lsn): Promise<{ previousLsn: Lsn; endLsn: Lsn }>;
  /** Where its base backups wait for their turn, if they do. */
  readonly backups?: BackupTurns | undefined;
  /** A data directory as a tar stream. Without `lsn`, at the end. */
  baseBackup(request: {
    lsn?: Lsn;
    readOnly: boolean;
  }): Promise<{ lsn: Lsn; previousLsn?: Lsn; stream: AsyncIterable<Uint8Array> }>;
  /**
   * Compares the data directory of a compute that was stopped at `lsn`, or that stock recovery has brought there, with a
   * base backup. Throws `not_checked` if that cannot be done.
   */
  verifyDirectory(
    request: { directory: string; lsn: Lsn; madeBy?: MadeBy },
    options: VerifyOptions,
  ): Promise<Verification>;
  /** For stock recovery of its own history; first puts everything into layers. */
  recoverySource(): Promise<RecoverySource>;
  /** Waits for layers that are being written. */
  work(): Promise<TimelineWork>;
  /** Writes its small files again from what is in memory, for those whose copies on disk are damaged. */
  rewriteFiles(): Promise<void>;
  /** Stops following the writer (the right to write stays stored), writes what must be written. Idempotent. */
  close(): Promise<void>;
}

/** Makes timelines. `T` is the class whose instances refer to each other as ancestors. */
export interface TimelineFactory<T extends ServedTimeline> {
  /** The same for a tenant that has settings of its own, which may change. */
  forTenant?(own: () => TenantOverrides): TimelineFactory<T>;
  /** A branch: an empty timeline on top of `ancestor`, durable with its metadata when this returns. */
  create(options: {
    directory: string;
    id: TimelineId;
    cluster: ClusterIdentity;
    ancestor: { timeline: T; lsn: Lsn };
    createdAt: number;
  }): Promise<T>;
  /** An existing timeline; goes on following the writer that its metadata names. */
  open(options: {
    directory: string;
    id: TimelineId;
    cluster: ClusterIdentity;
    ancestor: { timeline: T; lsn: Lsn } | undefined;
  }): Promise<T>;
  /** A root timeline from the tar of a data directory that was stopped cleanly, or of an online base backup. */
  import(options: {
    directory: string;
    id: TimelineId;
    /** Major version that is expected; the system identifier too, where the tenant has one. */
    expected: { pgVersion: PgVersion; systemId: bigint | undefined };
    tar: AsyncIterable<Uint8Array>;
    /** Where the timeline is to end. */
    endLsn?: Lsn | undefined;
    createdAt: number;
  }): Promise<T>;
}

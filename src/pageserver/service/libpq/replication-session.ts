/**
 * A connection that speaks the replication protocol: it follows one branch, as if that were a Postgres server of its own.
 * Stock standbys, pg_receivewal and pg_basebackup are its clients.
 */
import { ErrorCode, NeonError, unreachable } from "../../../base/errors.ts";
import { type Lsn, formatLsn, lsnAdd, lsnMax, lsnMin } from "../../../base/lsn.ts";
import type { Clock } from "../../../base/seams.ts";
import type { Column } from "../../../pgwire/encode-backend.ts";
import { SqlState } from "../../../pgwire/errors.ts";
import type { OwnStatements, Statement } from "../../../pgwire/statement.ts";
import { WireError } from "../../../pgwire/wire-errors.ts";
import { segmentName, segmentStart } from "../../../postgres/wal/layout.ts";
import { Slots } from "../../replication/slots.ts";
import { WalSender } from "../../replication/wal-sender.ts";
import type { TimelineWal } from "../../timeline/timeline-wal.ts";
import { usage } from "../http-errors.ts";
import { runBaseBackup } from "./base-backup.ts";
import type { CommandSession } from "./command.ts";
import type { Identity } from "../identity.ts";
import type { FollowedBranch } from "./replication-branch.ts";
import { ReplicationWords } from "./replication-grammar.ts";

/** How far a slot may lag behind what its client has, before that is written down. */
const SLOT_STEP_BYTES = 1 << 20;
/** How often that happens at most. */
const SLOT_STEP_MS = 10_000;

/** First words of the commands. */
export const REPLICATION_COMMANDS = [
  "IDENTIFY_SYSTEM",
  "SHOW",
  "TIMELINE_HISTORY",
  "READ_REPLICATION_SLOT",
  "CREATE_REPLICATION_SLOT",
  "DROP_REPLICATION_SLOT",
  "START_REPLICATION",
  "BASE_BACKUP",
  "UPLOAD_MANIFEST",
  "ALTER_REPLICATION_SLOT",
  "SELECT",
] as const;

const text = (name: string): Column => ({ name, type: "text" });
const int8 = (name: string): Column => ({ name, type: "int8" });

export interface ReplicationContext {
  readonly clock: Clock;
  /** What the client calls itself, and as who it has logged in. */
  readonly client: { readonly name: string; readonly user: string };
  /** Slots in use, of all connections. */
  readonly activeSlots: Set<string>;
  /** Takes a place among those who send WAL; throws where there is none. */
  readonly beginSending: () => Disposable;
  /** Commands of other connections, which work here too. */
  readonly others: (text: string) => Statement<Identity> | undefined;
}

type Run = (session: CommandSession) => Promise<string>;

export class ReplicationSession implements OwnStatements<Identity>, Disposable {
  readonly parameters: ReadonlyMap<string, string>;
  private readonly branch: FollowedBranch;
  private readonly context: ReplicationContext;
  private readonly slots: Slots;
  private readonly wal: TimelineWal;

  constructor(branch: FollowedBranch, context: ReplicationContext) {
    const { tenant, timeline } = branch;
    if (timeline.wal === undefined) throw new NeonError(ErrorCode.Unsupported, "this timeline has no WAL");
    this.branch = branch;
    this.context = context;
    this.wal = timeline.wal;
    this.slots = new Slots(tenant, timeline, context.activeSlots);
    // Clients that receive WAL compare it with their own.
    this.parameters = new Map([["server_version", `${timeline.cluster.pgVersion.major}.0`]]);
  }

  [Symbol.dispose](): void {
    this.slots[Symbol.dispose]();
  }

  prepare(statement: string): Statement<Identity> | undefined {
    const words = new ReplicationWords(statement);
    const run = this.command(words);
    if (run === undefined) return this.context.others(statement);
    words.end();
    return { columns: undefined, run };
  }

  /** Undefined for what is no replication command. */
  private command(words: ReplicationWords): Run | undefined {
    const word = REPLICATION_COMMANDS.find((known) => words.take(known));
    switch (word) {
      case "IDENTIFY_SYSTEM":
        return (session) => this.identify(session);
      case "SHOW":
        return this.show(words.name("the name of a setting"));
      case "TIMELINE_HISTORY":
        return this.timelineHistory(words.number("the timeline"));
      case "READ_REPLICATION_SLOT":
        return this.readSlot(words.name("the slot"));
      case "CREATE_REPLICATION_SLOT":
        return this.createSlot(words);
      case "DROP_REPLICATION_SLOT":
        return this.dropSlot(words);
      case "START_REPLICATION":
        return this.startReplication(words);
      case "BASE_BACKUP":
        return runBaseBackup(words, this.branch, this.context.clock);
      case "UPLOAD_MANIFEST":
        throw new NeonError(ErrorCode.Unsupported, "there are no incremental backups of a branch", {
          hint: "Leave out --incremental. A full backup reads no more than what the branch has in layers.",
        });
      case "ALTER_REPLICATION_SLOT":
        throw new NeonError(ErrorCode.Unsupported, "physical replication slots have nothing to alter");
      case "SELECT":
        return searchPath(words);
      case undefined:
        return undefined;
      default:
        return unreachable(word);
    }
  }

  private async identify(session: CommandSession): Promise<string> {
    const row = [
      this.wal.cluster.systemId.toString(),
      String(await this.wal.timelineNumber()),
      formatLsn(this.wal.endLsn),
      null,
    ];
    await session.resultSet([text("systemid"), int8("timeline"), text("xlogpos"), text("dbname")], [row], {
      last: true,
    });
    return "IDENTIFY_SYSTEM";
  }

  private show(name: string): Run {
    const settings: Readonly<Record<string, string>> = {
      wal_segment_size: sizeInUnits(this.wal.cluster.segmentSize),
      data_directory_mode: "0700",
      server_version: this.parameters.get("server_version") ?? "",
      server_version_num: `${this.wal.cluster.pgVersion.major}0000`,
      integer_datetimes: "on",
      wal_block_size: "8192",
      block_size: "8192",
    };
    const value = settings[name];
    if (value === undefined) {
      throw new WireError(
        SqlState.UndefinedObject,
        ErrorCode.NotFound,
        `unrecognized configuration parameter "${name.slice(0, 80)}"`,
      );
    }
    return async (session) => {
      await session.resultSet([text(name)], [[value]], { last: true });
      return "SHOW";
    };
  }

  private timelineHistory(number: number): Run {
    return async () => {
      const name = `${number.toString(16).toUpperCase().padStart(8, "0")}.history`;
      // Branches are not timelines of Postgres: there is one only.
      throw new WireError(
        SqlState.UndefinedFile,
        ErrorCode.NotFound,
        `could not open file "pg_wal/${name}": the branch is on timeline ${await this.wal.timelineNumber()} from its beginning`,
      );
    };
  }

  private readSlot(name: string): Run {
    return async (session) => {
      const slot = await this.slots.find(name);
      const row = slot
        ? ["physical", formatLsn(slot.restartLsn), String(await this.wal.timelineNumber())]
        : [null, null, null];
      await session.resultSet([text("slot_type"), text("restart_lsn"), int8("restart_tli")], [row], {
        last: true,
      });
      return "READ_REPLICATION_SLOT";
    };
  }

  private createSlot(words: ReplicationWords): Run {
    const name = words.name("the slot");
    const temporary = words.take("TEMPORARY");
    if (!words.take("PHYSICAL")) {
      throw new NeonError(ErrorCode.Unsupported, "there are physical replication slots only", {
        hint: "Logical decoding needs a running Postgres: connect to the compute of the branch.",
      });
    }
    words.options(new Set());
    return async (session) => {
      await this.slots.create(name, temporary);
      const columns = ["slot_name", "consistent_point", "snapshot_name", "output_plugin"].map(text);
      await session.resultSet(columns, [[name, "0/0", null, null]], { last: true });
      return "CREATE_REPLICATION_SLOT";
    };
  }

  private dropSlot(words: ReplicationWords): Run {
    const name = words.name("the slot");
    words.take("WAIT");
    return async () => {
      await this.slots.drop(name);
      return "DROP_REPLICATION_SLOT";
    };
  }

  private startReplication(words: ReplicationWords): Run {
    const slot = words.take("SLOT") ? words.name("the slot") : undefined;
    words.take("PHYSICAL");
    if (words.take("LOGICAL")) throw usage("there is physical replication only");
    const startLsn = words.lsn();
    const timeline = words.take("TIMELINE") ? words.number("the timeline") : undefined;
    return async (session) => {
      using _place = this.context.beginSending();
      using used = slot === undefined ? undefined : await this.slots.use(slot);
      await this.checkTimeline(startLsn, timeline);
      using hold = await this.holdFrom(startLsn);
      await this.warnOfVoid(session, startLsn);
      await this.send(session, startLsn, { slot: used?.name, hold });
      return "START_REPLICATION";
    };
  }

  private async checkTimeline(lsn: Lsn, wanted: number | undefined): Promise<void> {
    if (wanted !== undefined && wanted !== (await this.wal.timelineNumber())) {
      throw internal(
        `requested starting point ${formatLsn(lsn)} on timeline ${wanted} is not in this server's history`,
      );
    }
    if (lsn > this.wal.endLsn) {
      throw internal(
        `requested starting point ${formatLsn(lsn)} is ahead of the WAL flush position of this server ${formatLsn(this.wal.endLsn)}`,
      );
    }
  }

  /** Keeps the WAL from an LSN on, unless it is gone already. What lies before it in its segment is not needed. */
  private holdFrom(lsn: Lsn): Promise<MovingHold> {
    const { segmentSize } = this.wal.cluster;
    return this.branch.tenant.change(async () => {
      const floor = this.wal.floorLsn;
      if (lsn < segmentStart(floor, segmentSize)) throw await this.removed(lsn);
      return new MovingHold(this.branch, lsnMax(lsn, floor));
    });
  }

  /**
   * Clients ask from the start of a segment, where garbage collection may have left its end only. A new standby or archive
   * needs no more; one that had all of it before loses the rest.
   */
  private async warnOfVoid(session: CommandSession, startLsn: Lsn): Promise<void> {
    const { floorLsn, isCollected, cluster } = this.wal;
    if (startLsn >= floorLsn || !isCollected) return;
    const name = segmentName(await this.wal.timelineNumber(), startLsn, cluster.segmentSize);
    await session.warn(
      `WAL before ${formatLsn(floorLsn)} has been removed: zeros are sent for it in segment ${name}`,
      "A replication slot keeps what its client needs.",
    );
  }

  private async removed(lsn: Lsn): Promise<WireError> {
    const name = segmentName(await this.wal.timelineNumber(), lsn, this.wal.cluster.segmentSize);
    return new WireError(
      SqlState.UndefinedFile,
      ErrorCode.NotFound,
      `requested WAL segment ${name} has already been removed`,
      {
        hint: `The branch's WAL is kept from ${formatLsn(this.wal.floorLsn)} on. A replication slot keeps what its client needs.`,
      },
    );
  }

  private async send(
    session: CommandSession,
    startLsn: Lsn,
    { slot, hold }: { slot: string | undefined; hold: MovingHold },
  ): Promise<void> {
    const channel = await session.copyBoth();
    const progress = slot === undefined ? undefined : new SlotProgress(this.slots, slot, startLsn);
    const { tenant, timeline } = this.branch;
    const sender = new WalSender({
      wal: this.wal,
      startLsn,
      channel,
      signal: session.signal,
      clock: this.context.clock,
      client: { ...this.context.client, slot },
      onStatus: ({ flushLsn }) => progress?.note(lsnMin(flushLsn, this.wal.endLsn)),
      onSent: (lsn) => hold.move(lsn),
      check: () => {
        if (tenant.timeline(timeline.id) !== timeline) {
          throw new NeonError(ErrorCode.Unreachable, "the branch was opened anew: connect again");
        }
      },
    });
    try {
      await sender.run();
    } finally {
      await progress?.end();
    }
  }
}

/** A hold on WAL that moves along with what has been sent. */
class MovingHold implements Disposable {
  private readonly branch: FollowedBranch;
  private lsn: Lsn;
  private hold: Disposable | undefined;

  constructor(branch: FollowedBranch, lsn: Lsn) {
    this.branch = branch;
    this.lsn = lsn;
    this.hold = this.take(lsn);
  }

  move(lsn: Lsn): void {
    if (lsn < lsnAdd(this.lsn, SLOT_STEP_BYTES)) return;
    this.lsn = lsn;
    const before = this.hold;
    this.hold = this.take(lsn);
    before?.[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.hold?.[Symbol.dispose]();
  }

  private take(lsn: Lsn): Disposable | undefined {
    return this.branch.timeline.leases?.hold(lsn, "replication", { wal: true });
  }
}

/** Writes down now and then how far the client of a slot has got. */
class SlotProgress {
  private readonly slots: Slots;
  private readonly name: string;
  private noted: Lsn;
  private written: Lsn;
  private writtenAt = performance.now();
  private writing: Promise<void> = Promise.resolve();

  constructor(slots: Slots, name: string, startLsn: Lsn) {
    this.slots = slots;
    this.name = name;
    this.noted = startLsn;
    this.written = startLsn;
  }

  note(flushLsn: Lsn): void {
    if (flushLsn <= this.noted) return;
    this.noted = flushLsn;
    const now = performance.now();
    if (flushLsn < this.written + SLOT_STEP_BYTES || now - this.writtenAt < SLOT_STEP_MS) return;
    this.writtenAt = now;
    this.write();
  }

  async end(): Promise<void> {
    if (this.noted > this.written) this.write();
    await this.writing;
  }

  private write(): void {
    this.written = this.noted;
    // An older position keeps more than is needed, which does no harm.
    this.writing = this.slots.advance(this.name, this.noted).catch(() => undefined);
  }
}

/** `SELECT pg_catalog.set_config('search_path', '', false)`: clients make themselves safe with it before anything else. */
function searchPath(words: ReplicationWords): Run | undefined {
  if (!words.take("PG_CATALOG.SET_CONFIG")) return undefined;
  words.skipBrackets();
  return async (session) => {
    await session.resultSet([text("set_config")], [[""]], { last: true });
    return "SELECT 1";
  };
}

function internal(message: string): WireError {
  return new WireError(SqlState.InternalError, ErrorCode.Usage, message);
}

/** As Postgres shows sizes. */
function sizeInUnits(bytes: number): string {
  return bytes % 2 ** 30 === 0 ? `${bytes / 2 ** 30}GB` : `${bytes / 2 ** 20}MB`;
}

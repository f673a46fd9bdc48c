/**
 * `compute.json`: what is known about a compute besides its data directory. Format: docs/formats/compute-file.md.
 * Written atomically and synced, so it is older than the truth at worst, never half of it.
 */
import { readFileSync } from "node:fs";
import { crc32c } from "../base/crc32c.ts";
import { NeonError, corrupt, systemCode } from "../base/errors.ts";
import {
  type TenantId,
  type TimelineId,
  type WriterEpoch,
  parseTenantId,
  parseTimelineId,
  parseWriterEpoch,
} from "../base/ids.ts";
import { type Lsn, formatLsn, parseLsn } from "../base/lsn.ts";
import { fileError, writeFileAtomically } from "../repository/atomic-file.ts";
import type { CommitMode, ComputeMode } from "./settings.ts";

const FORMAT = "neon compute";
const VERSION = 1;
/** Far more than any of these files has. */
const FILE_BYTES_MAX = 1024 * 1024;

/** A Postgres that was started. */
export interface RecordedProcess {
  readonly pid: number;
  /** See `ProcessIdentity`. */
  readonly startTime: string;
  readonly bootId: string;
}

/** A shutdown that Postgres finished by itself. */
export interface CleanStop {
  /** End of the shutdown checkpoint record. */
  readonly lsn: Lsn;
  /** The pageserver has said that it has everything up to there. */
  readonly ingested: boolean;
}

export interface ComputeRecord {
  readonly name: string;
  /** Name of the branch when last looked up; the timeline is what counts. */
  readonly branch: string;
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  /** URI of the pageserver that has the branch, without a password; null for the repository's own. */
  readonly pageserver: string | null;
  readonly mode: ComputeMode;
  readonly commit: CommitMode;
  readonly pgVersion: number;
  readonly port: number;
  /** Where the data directory started: for a read-only compute, the moment that it shows. */
  readonly lsn: Lsn;
  /** The writer epoch that this compute has opened and not closed. */
  readonly epoch: WriterEpoch | null;
  /** The last Postgres that was started and has not been stopped by us. */
  readonly process: RecordedProcess | null;
  /** The boot in which the data directory was last written to. */
  readonly bootId: string | null;
  readonly stop: CleanStop | null;
}

/** Reads a compute's file; undefined if there is none. Throws `corrupt`. */
export function readComputeFile(path: string): ComputeRecord | undefined {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    const code = systemCode(error);
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw fileError(`cannot read ${path}`, error);
  }
  try {
    return decodeComputeFile(text);
  } catch (error) {
    throw new NeonError("corrupt", `${path} is damaged: ${error instanceof Error ? error.message : ""}`, {
      hint: "What was committed is on the pageserver: remove the compute's directory and create the compute again.",
      data: { path },
      cause: error,
    });
  }
}

export async function writeComputeFile(path: string, record: ComputeRecord): Promise<void> {
  await writeFileAtomically(path, encodeComputeFile(record), 0o600);
}

export function encodeComputeFile(record: ComputeRecord): string {
  const compute = {
    name: record.name,
    branch: record.branch,
    tenant_id: record.tenantId,
    timeline_id: record.timelineId,
    ...(record.pageserver === null ? {} : { pageserver: record.pageserver }),
    mode: record.mode,
    commit: record.commit,
    pg_version: record.pgVersion,
    port: record.port,
    lsn: formatLsn(record.lsn),
    epoch: record.epoch,
    process: record.process && {
      pid: record.process.pid,
      start_time: record.process.startTime,
      boot_id: record.process.bootId,
    },
    boot_id: record.bootId,
    stop: record.stop && { lsn: formatLsn(record.stop.lsn), ingested: record.stop.ingested },
  };
  const file = { format: FORMAT, version: VERSION, crc32c: checksum(compute), compute };
  return `${JSON.stringify(file, null, 2)}\n`;
}

/** Throws `corrupt` for anything that `encodeComputeFile` did not write. */
export function decodeComputeFile(text: string): ComputeRecord {
  if (text.length > FILE_BYTES_MAX) throw corrupt("it is too large");
  let file: unknown;
  try {
    file = JSON.parse(text);
  } catch (error) {
    throw corrupt("it is not JSON", {}, error);
  }
  const outer = new Fields(file);
  if (outer.text("format") !== FORMAT) throw corrupt("it is another kind of file");
  if (outer.number("version") !== VERSION) throw corrupt(`it has version ${outer.number("version")}`);
  const compute = outer.object("compute");
  if (outer.text("crc32c") !== checksum(compute.value)) throw corrupt("its checksum is wrong");
  return recordOf(compute);
}

function recordOf(compute: Fields): ComputeRecord {
  const running = compute.optionalObject("process");
  const stop = compute.optionalObject("stop");
  const epoch = compute.optionalText("epoch");
  return {
    name: compute.text("name"),
    branch: compute.text("branch"),
    tenantId: parseTenantId(compute.text("tenant_id")),
    timelineId: parseTimelineId(compute.text("timeline_id")),
    pageserver: compute.has("pageserver") ? compute.text("pageserver") : null,
    mode: compute.oneOf("mode", ["read-write", "read-only"]),
    commit: compute.oneOf("commit", ["remote", "local"]),
    pgVersion: compute.number("pg_version"),
    port: compute.number("port"),
    lsn: compute.lsn("lsn"),
    epoch: epoch === null ? null : parseWriterEpoch(epoch),
    process: running && {
      pid: running.number("pid"),
      startTime: running.text("start_time"),
      bootId: running.text("boot_id"),
    },
    bootId: compute.optionalText("boot_id"),
    stop: stop && { lsn: stop.lsn("lsn"), ingested: stop.boolean("ingested") },
  };
}

/** Over the compact JSON text, whose order of keys is that of the file. */
function checksum(compute: unknown): string {
  return crc32c(new TextEncoder().encode(JSON.stringify(compute)))
    .toString(16)
    .padStart(8, "0");
}

/** Typed access to the members of an object that came from outside. */
class Fields {
  readonly value: Readonly<Record<string, unknown>>;

  constructor(value: unknown) {
    if (typeof value !== "object" || value === null || Array.isArray(value))
      throw corrupt("an object is missing");
    this.value = value as Readonly<Record<string, unknown>>;
  }

  has(name: string): boolean {
    return Object.hasOwn(this.value, name);
  }

  text(name: string): string {
    const value = this.value[name];
    if (typeof value !== "string") throw corrupt(`"${name}" is no text`);
    return value;
  }

  optionalText(name: string): string | null {
    return this.value[name] === null ? null : this.text(name);
  }

  number(name: string): number {
    const value = this.value[name];
    if (typeof value !== "number" || !Number.isSafeInteger(value))
      throw corrupt(`"${name}" is no whole number`);
    return value;
  }

  boolean(name: string): boolean {
    const value = this.value[name];
    if (typeof value !== "boolean") throw corrupt(`"${name}" is neither true nor false`);
    return value;
  }

  lsn(name: string): Lsn {
    const lsn = parseLsn(this.text(name));
    if (lsn === undefined) throw corrupt(`"${name}" is no LSN`);
    return lsn;
  }

  oneOf<T extends string>(name: string, choices: readonly T[]): T {
    const text = this.text(name);
    const choice = choices.find((item) => item === text);
    if (choice === undefined) throw corrupt(`"${name}" is none of ${choices.join(", ")}`);
    return choice;
  }

  object(name: string): Fields {
    return new Fields(this.value[name]);
  }

  optionalObject(name: string): Fields | null {
    return this.value[name] === null ? null : this.object(name);
  }
}

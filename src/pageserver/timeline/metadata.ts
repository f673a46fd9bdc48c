/**
 * metadata.json of a timeline: where it comes from, who has written to it, and whom to follow after a restart.
 * Format: docs/formats/timeline-metadata.md.
 */
import { SSL_MODES, type SslMode } from "../../pgwire/uri.ts";
import { join } from "node:path";
import { corrupt } from "../../base/errors.ts";
import type { TimelineId, WriterEpoch } from "../../base/ids.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import type { Files } from "../../base/seams.ts";
import type { JsonFields } from "../json-fields.ts";
import { readJsonFile, writeJsonFile } from "./json-file.ts";

export const METADATA_FILE = "metadata.json";
const MAGIC = "neon-timeline";
const VERSION = 1;

/** Where the WAL of a compute is fetched: a directory with its Unix socket, or a host. */
export interface WriterSource {
  readonly socketDirectory?: string;
  readonly host?: string;
  readonly port: number;
  readonly user: string;
  readonly password?: string;
  readonly sslMode?: SslMode;
  readonly sslRootCert?: string;
}

/** A compute that may write to a timeline, as it is remembered across restarts. */
export interface StoredWriter {
  /** The compute's name. */
  readonly name: string;
  readonly epoch: WriterEpoch;
  readonly source: WriterSource;
}

/** From `startLsn` on, until the next entry, the WAL was written under `epoch`. */
export interface HistoryEntry {
  readonly startLsn: Lsn;
  readonly epoch: WriterEpoch;
}

export interface AncestorPoint {
  readonly timelineId: TimelineId;
  readonly lsn: Lsn;
}

export interface TimelineMetadata {
  readonly id: TimelineId;
  readonly ancestor: AncestorPoint | undefined;
  /** Of a copy of a root under another id: the id that stands for what was imported. */
  readonly importId?: TimelineId | undefined;
  readonly history: readonly HistoryEntry[];
  /** The compute to follow; undefined when none has the right to write. */
  readonly writer: StoredWriter | undefined;
  /** Milliseconds since 1970. */
  readonly createdAt: number;
}

/** Replaces the metadata of the timeline in `directory` as one durable step. */
export async function writeTimelineMetadata(
  files: Files,
  directory: string,
  metadata: TimelineMetadata,
): Promise<void> {
  const { ancestor, writer } = metadata;
  await writeJsonFile(files, join(directory, METADATA_FILE), MAGIC, VERSION, {
    timeline_id: metadata.id,
    created_at: new Date(metadata.createdAt).toISOString(),
    ancestor: ancestor ? { timeline_id: ancestor.timelineId, lsn: formatLsn(ancestor.lsn) } : null,
    ...(metadata.importId === undefined ? {} : { import_id: metadata.importId }),
    history: metadata.history.map((entry) => ({ start_lsn: formatLsn(entry.startLsn), epoch: entry.epoch })),
    writer: writer
      ? { name: writer.name, epoch: writer.epoch, source: renderWriterSource(writer.source) }
      : null,
  });
}

/** Undefined if the directory has none; throws `corrupt` if it is damaged or belongs to another timeline. */
export async function readTimelineMetadata(
  files: Files,
  directory: string,
  id: TimelineId,
): Promise<TimelineMetadata | undefined> {
  const path = join(directory, METADATA_FILE);
  const file = await readJsonFile(files, path, MAGIC, VERSION);
  if (!file) return undefined;
  const { fields } = file;
  const metadata: TimelineMetadata = {
    id: fields.timelineId("timeline_id"),
    createdAt: fields.time("created_at"),
    ancestor: readAncestor(fields.optionalObject("ancestor")),
    ...(fields.has("import_id") ? { importId: fields.timelineId("import_id") } : {}),
    history: fields
      .objects("history")
      .map((entry) => ({ startLsn: entry.lsn("start_lsn"), epoch: entry.writerEpoch("epoch") })),
    writer: readWriter(fields.optionalObject("writer")),
  };
  if (metadata.id !== id) throw corrupt(`${path} is that of timeline ${metadata.id}`, { path, expected: id });
  for (let i = 1; i < metadata.history.length; i++) {
    const before = metadata.history[i - 1];
    const entry = metadata.history[i];
    if (before && entry && entry.startLsn < before.startLsn) {
      throw corrupt(`${path}: history goes back at entry ${i}`, { path, lsn: formatLsn(entry.startLsn) });
    }
  }
  return metadata;
}

/** As it stands in metadata.json and in requests. */
export function renderWriterSource(source: WriterSource): Record<string, string | number> {
  return {
    ...(source.socketDirectory === undefined ? {} : { socket_directory: source.socketDirectory }),
    ...(source.host === undefined ? {} : { host: source.host }),
    port: source.port,
    user: source.user,
    ...(source.password === undefined ? {} : { password: source.password }),
    ...(source.sslMode === undefined ? {} : { sslmode: source.sslMode }),
    ...(source.sslRootCert === undefined ? {} : { sslrootcert: source.sslRootCert }),
  };
}

/** The counterpart of `renderWriterSource`; exactly one of socket directory and host must be there. */
export function readWriterSource(fields: JsonFields): WriterSource {
  const socketDirectory = fields.optionalText("socket_directory");
  const host = fields.optionalText("host", { maxLength: 255 });
  if ((socketDirectory === undefined) === (host === undefined)) {
    throw fields.wrong("host", 'or "socket_directory" is wanted, one of the two');
  }
  if (socketDirectory !== undefined && !socketDirectory.startsWith("/")) {
    throw fields.wrong("socket_directory", "must be an absolute path");
  }
  const password = fields.optionalText("password", { maxLength: 1000 });
  const mode = fields.optionalText("sslmode");
  const sslMode = SSL_MODES.find((known) => known === mode);
  if (mode !== undefined && sslMode === undefined)
    throw fields.wrong("sslmode", `is one of ${SSL_MODES.join(", ")}`);
  const sslRootCert = fields.optionalText("sslrootcert", { maxLength: 4096 });
  return {
    ...(socketDirectory === undefined ? {} : { socketDirectory }),
    ...(host === undefined ? {} : { host }),
    port: fields.integer("port", { min: 1, max: 65_535 }),
    user: fields.text("user", { maxLength: 63 }),
    ...(password === undefined ? {} : { password }),
    ...(sslMode === undefined ? {} : { sslMode }),
    ...(sslRootCert === undefined ? {} : { sslRootCert }),
  };
}

function readAncestor(fields: JsonFields | undefined): AncestorPoint | undefined {
  return fields && { timelineId: fields.timelineId("timeline_id"), lsn: fields.lsn("lsn") };
}

function readWriter(fields: JsonFields | undefined): StoredWriter | undefined {
  return (
    fields && {
      name: fields.text("name"),
      epoch: fields.writerEpoch("epoch"),
      source: readWriterSource(fields.object("source")),
    }
  );
}

/**
 * The small files of a tenant: tenant.json, refs, metadata of timelines, and which directories there are. Read at one
 * moment in which nobody changes them, and held against each other and against what the pageserver has in memory.
 */
import { join } from "node:path";
import type { NeonError } from "../../base/errors.ts";
import { type TimelineId, isId } from "../../base/ids.ts";
import type { Files } from "../../base/seams.ts";
import { Findings } from "../../storage/findings.ts";
import { STAGING_DIRECTORY } from "../transfer/staging-directory.ts";
import { TEMPORARY_SUFFIX } from "../timeline/json-file.ts";
import { METADATA_FILE, type TimelineMetadata, readTimelineMetadata } from "../timeline/metadata.ts";
import { type RefFiles, type Refs, readRefFiles } from "../timeline/refs.ts";
import type { ClusterIdentity, ServedTimeline } from "../timeline/served-timeline.ts";
import type { Timelines } from "../timeline/timelines.ts";

/** A timeline that is on disk, or that something names. */
export interface SurveyedTimeline {
  readonly id: TimelineId;
  readonly directory: string;
  /** Names of branches, sorted. */
  readonly branches: readonly string[];
  /** As it is on disk, where it can be read. */
  readonly metadata: TimelineMetadata | undefined;
  /** The timeline, if it is open. */
  readonly open: ServedTimeline | undefined;
  /** Why it is not open, if the pageserver has tried. */
  readonly brokenBecause: NeonError | undefined;
  /** Nothing names it: the next start removes it. */
  readonly isLeftover: boolean;
  /** What is wrong with its metadata and with what names it. */
  readonly findings: Findings;
}

export interface TenantSurvey {
  readonly directory: string;
  readonly cluster: ClusterIdentity | undefined;
  /** Sorted by id. */
  readonly timelines: readonly SurveyedTimeline[];
  /** About tenant.json, refs, and what belongs to no timeline. */
  readonly findings: Findings;
}

export interface SurveySubject<T extends ServedTimeline> {
  readonly directory: string;
  readonly tenantFile: string;
  readonly cluster: ClusterIdentity | undefined;
  readonly refs: Refs;
  readonly timelines: Timelines<T>;
  /** Reads tenant.json; throws where it is damaged. */
  readonly readTenantFile: () => Promise<unknown>;
}

/** To be called while no branch, writer or timeline is being changed. */
export async function surveyTenant<T extends ServedTimeline>(
  subject: SurveySubject<T>,
  files: Files,
): Promise<TenantSurvey> {
  const findings = new Findings();
  await surveyTenantFile(subject, findings, files);
  const refs = await surveyRefs(subject, findings, files);
  const directories = await listTimelines(subject, findings, files);
  const metadata = new Map<TimelineId, TimelineMetadata>();
  const own = new Map<TimelineId, Findings>();
  for (const id of directories) {
    const about = new Findings();
    own.set(id, about);
    const found = await surveyMetadata(join(subject.directory, "timelines", id), id, about, files);
    if (found) metadata.set(id, found);
  }
  const named = namedTimelines(refs, metadata);
  for (const [id, by] of named) {
    if (own.has(id)) continue;
    const about = new Findings();
    about.corrupt(`it is missing, but ${by} names it`, join(subject.directory, "timelines", id));
    own.set(id, about);
  }
  // What an unreadable file would have named is not known, so nothing may be taken for a leftover then.
  const isAllKnown =
    refs.damaged.length === 0 && directories.every((id) => metadata.has(id) || !named.has(id));
  const entries = subject.timelines.settled();
  const timelines = [...own].map(([id, about]) => {
    const entry = entries.get(id);
    const timeline: SurveyedTimeline = {
      id,
      directory: join(subject.directory, "timelines", id),
      branches: refs.refs.filter((ref) => ref.timelineId === id).map((ref) => ref.name),
      metadata: metadata.get(id),
      open: entry?.kind === "open" ? entry.timeline : undefined,
      brokenBecause: entry?.kind === "broken" ? entry.error : undefined,
      isLeftover: isAllKnown && !named.has(id) && !entries.has(id),
      findings: about,
    };
    compareWithMemory(timeline, metadata);
    return timeline;
  });
  timelines.sort((a, b) => (a.id < b.id ? -1 : 1));
  return { directory: subject.directory, cluster: subject.cluster, timelines, findings };
}

async function surveyTenantFile<T extends ServedTimeline>(
  subject: SurveySubject<T>,
  findings: Findings,
  files: Files,
): Promise<void> {
  const { directory, tenantFile } = subject;
  const path = join(directory, tenantFile);
  try {
    if ((await subject.readTenantFile()) === undefined) findings.corrupt("it is missing", path);
  } catch (error) {
    findings.addError(error, path);
  }
  for (const name of await files.list(directory)) {
    if (name === tenantFile || name === "refs" || name === "timelines" || name === STAGING_DIRECTORY)
      continue;
    const isOurs = name === tenantFile + TEMPORARY_SUFFIX;
    findings.garbage(
      isOurs ? "an interrupted write left it" : "it is nothing of ours",
      join(directory, name),
    );
  }
}

async function surveyRefs<T extends ServedTimeline>(
  subject: SurveySubject<T>,
  findings: Findings,
  files: Files,
): Promise<RefFiles> {
  const found = await readRefFiles(files, join(subject.directory, "refs"));
  for (const { path, error } of found.damaged) findings.addError(error, path);
  for (const path of found.leftovers) findings.garbage("an interrupted write left it", path);
  const onDisk = new Map(found.refs.map((ref) => [ref.name, ref]));
  const damaged = new Set(found.damaged.map(({ name }) => name));
  for (const ref of subject.refs.list()) {
    const file = onDisk.get(ref.name);
    if (damaged.has(ref.name) || file?.timelineId === ref.timelineId) continue;
    const what = file
      ? `it names timeline ${file.timelineId}, but the pageserver works on ${ref.timelineId}`
      : `it is missing; the pageserver knows branch ${ref.name} as timeline ${ref.timelineId}`;
    findings.corrupt(what, subject.refs.path(ref.name));
  }
  for (const { name } of found.refs) {
    if (subject.refs.get(name) || subject.refs.damaged.has(name)) continue;
    findings.corrupt(
      "the pageserver knows no such branch: the file came from elsewhere",
      subject.refs.path(name),
    );
  }
  return found;
}

async function listTimelines<T extends ServedTimeline>(
  subject: SurveySubject<T>,
  findings: Findings,
  files: Files,
): Promise<TimelineId[]> {
  const directory = join(subject.directory, "timelines");
  const ids: TimelineId[] = [];
  for (const name of await files.list(directory)) {
    if (!isId(name)) findings.garbage("it is no timeline", join(directory, name));
    else if (!subject.timelines.isUnsettled(name as TimelineId)) ids.push(name as TimelineId);
  }
  return ids;
}

async function surveyMetadata(
  directory: string,
  id: TimelineId,
  findings: Findings,
  files: Files,
): Promise<TimelineMetadata | undefined> {
  const path = join(directory, METADATA_FILE);
  try {
    const metadata = await readTimelineMetadata(files, directory, id);
    if (metadata === undefined) findings.corrupt("it is missing", path);
    return metadata;
  } catch (error) {
    findings.addError(error, path);
    return undefined;
  }
}

/** Every timeline that a ref reaches, itself or through its descendants, and what names it. */
function namedTimelines(
  refs: RefFiles,
  metadata: ReadonlyMap<TimelineId, TimelineMetadata>,
): Map<TimelineId, string> {
  const named = new Map<TimelineId, string>();
  for (const ref of refs.refs) {
    let by = `branch "${ref.name}"`;
    for (let id: TimelineId | undefined = ref.timelineId; id !== undefined && !named.has(id);) {
      named.set(id, by);
      by = `timeline ${id}`;
      id = metadata.get(id)?.ancestor?.timelineId;
    }
  }
  return named;
}

function compareWithMemory(timeline: SurveyedTimeline, all: ReadonlyMap<TimelineId, TimelineMetadata>): void {
  const { open, metadata, findings, directory, id } = timeline;
  const path = join(directory, METADATA_FILE);
  const ancestor = metadata?.ancestor;
  if (metadata && ancestor && leadsInACircle(id, all)) findings.corrupt("its ancestors go in a circle", path);
  if (open && metadata && !sameAncestor(open.ancestor, ancestor)) {
    findings.corrupt("it names another ancestor than the one that the pageserver works with", path);
  }
}

function sameAncestor(a: TimelineMetadata["ancestor"], b: TimelineMetadata["ancestor"]): boolean {
  return a?.timelineId === b?.timelineId && a?.lsn === b?.lsn;
}

function leadsInACircle(id: TimelineId, all: ReadonlyMap<TimelineId, TimelineMetadata>): boolean {
  const seen = new Set<TimelineId>();
  let next: TimelineId | undefined = id;
  while (next !== undefined) {
    if (seen.has(next)) return true;
    seen.add(next);
    next = all.get(next)?.ancestor?.timelineId;
  }
  return false;
}

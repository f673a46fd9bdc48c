/** Routes for those who let stock Postgres recover moments of a branch (`neon verify --at`, `--samples`). */
import { type Lsn, formatLsn, lsnAdd, lsnMax, parseLsn } from "../../base/lsn.ts";
import type { JsonFields } from "../json-fields.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import { type RecoveryPlan, planRecovery, recoveryBackup } from "../verify/recovery.ts";
import { usage } from "./http-errors.ts";
import { type Answer, type ApiRequest, json } from "./request.ts";

/** Each is a recovery, a base backup and a comparison. */
const SAMPLES_MAX = 10_000;

/** POST: how to get to each of some LSNs. */
export async function plan(request: ApiRequest, timeline: ServedTimeline): Promise<Answer> {
  const body = await request.body();
  const from = body.has("from") ? body.lsn("from") : undefined;
  const samples = body.has("samples") ? body.integer("samples", { min: 1, max: SAMPLES_MAX }) : undefined;
  const given = samples === undefined ? readLsns(body) : [];
  body.end();
  const source = await timeline.recoverySource();
  // Below the cutoff garbage collection may have dropped records.
  const fromLsn = from ?? lsnMax(source.startLsn, timeline.gcCutoffLsn ?? source.startLsn);
  const lsns = samples === undefined ? given : evenly(fromLsn, timeline.lastRecordLsn, samples);
  const found = await planRecovery(source, { fromLsn, lsns });
  return json(renderPlan(found));
}

function readLsns(body: JsonFields): Lsn[] {
  const lsns = body.texts("lsns").map((text) => {
    const lsn = parseLsn(text);
    if (lsn === undefined) throw body.wrong("lsns", `must be LSNs such as 0/16E2408, not "${text}"`);
    return lsn;
  });
  if (lsns.length === 0) throw body.wrong("lsns", "must not be empty");
  return [...new Set(lsns)].sort((a, b) => a - b);
}

/** The last one is `toLsn`. */
function evenly(fromLsn: Lsn, toLsn: Lsn, count: number): Lsn[] {
  const length = Math.max(0, toLsn - fromLsn);
  return Array.from({ length: count }, (_, i) => lsnAdd(fromLsn, Math.floor((length * (i + 1)) / count)));
}

/** GET: the data directory from which stock recovery gets to an LSN. */
export async function backup(request: ApiRequest, timeline: ServedTimeline): Promise<Answer> {
  request.expectQuery("checkpoint", "lsn");
  const checkpointLsn = request.queryLsn("checkpoint");
  const lsn = request.queryLsn("lsn");
  if (checkpointLsn === undefined) throw usage('query parameter "checkpoint" is missing', "checkpoint");
  if (lsn === undefined) throw usage('query parameter "lsn" is missing', "lsn");
  const source = await timeline.recoverySource();
  return {
    kind: "stream",
    headers: { "content-type": "application/x-tar", "x-neon-lsn": formatLsn(lsn) },
    stream: recoveryBackup(source, { checkpointLsn, lsn }, Date.now()),
  };
}

function renderPlan({ steps, records }: RecoveryPlan): object {
  return {
    steps: steps.map((step) => ({
      lsn: formatLsn(step.lsn),
      checkpoint_lsn: formatLsn(step.checkpointLsn),
      redo_lsn: formatLsn(step.redoLsn),
    })),
    records,
  };
}

/** What answers look like, as JSON Schemas (2020-12) for the OpenAPI document. Fields may be added, none renamed. */

export type Schema = Readonly<Record<string, unknown>>;

const text: Schema = { type: "string" };
const boolean: Schema = { type: "boolean" };
const count: Schema = { type: "integer", minimum: 0 };
const time: Schema = { type: "string", format: "date-time" };
const id: Schema = { type: "string", pattern: "^[0-9a-f]{32}$" };
const lsn: Schema = { type: "string", pattern: "^[0-9A-F]{1,8}/[0-9A-F]{1,8}$" };

function orNull(schema: Schema): Schema {
  return { anyOf: [schema, { type: "null" }] };
}

function list(items: Schema): Schema {
  return { type: "array", items };
}

/** All fields are required, those of `optional` are not. */
function object(required: Record<string, Schema>, optional: Record<string, Schema> = {}): Schema {
  return { type: "object", required: Object.keys(required), properties: { ...required, ...optional } };
}

export function schemaRef(name: keyof typeof SCHEMAS): Schema {
  return { $ref: `#/components/schemas/${name}` };
}

function ref(name: string): Schema {
  return { $ref: `#/components/schemas/${name}` };
}

/** Times are texts such as `1h 30m`, sizes numbers of bytes. */
export const TENANT_SETTINGS: Readonly<Record<string, Schema>> = {
  checkpoint_distance: count,
  checkpoint_timeout: text,
  gc_horizon: count,
  gc_period: text,
  pitr_interval: text,
  compaction_target_size: count,
  compaction_period: text,
  compaction_threshold: count,
  image_creation_threshold: count,
  l0_flush_delay_threshold: count,
  lsn_lease_length: text,
  lsn_lease_length_for_ts: text,
};

const ancestor = object({ name: orNull(text), timeline_id: id, lsn });
const finding = object({
  kind: text,
  what: text,
  file: text,
  offset: orNull({ type: "integer" }),
});
const part = { state: text, details: list(finding), omitted: count };
const slug = object({ slug: text }, { data: {} });

export const SCHEMAS = {
  Error: object({
    msg: text,
    error: object({
      code: {
        enum: [
          "failed",
          "usage",
          "not_found",
          "exists",
          "conflict",
          "unreachable",
          "corrupt",
          "not_checked",
          "resource",
          "postgres",
          "timeout",
          "declined",
          "unsupported",
        ],
      },
      message: text,
      hint: orNull(text),
      data: { type: "object" },
    }),
  }),
  Status: object({
    state: { enum: ["starting", "ready", "stopping"] },
    id: count,
    pid: count,
    version: text,
    started_at: time,
    repository: text,
  }),
  Tenant: object(
    {
      id,
      tenant_id: id,
      pg_version: orNull(count),
      state: slug,
      attachment_status: slug,
      generation: count,
      current_physical_size: orNull(count),
      error: orNull(text),
      gc_blocking: orNull(text),
    },
    { system_id: orNull(text), created_at: time },
  ),
  TenantDetails: {
    allOf: [ref("Tenant"), object({ timelines: list(id), walredo: { type: "null" } })],
  },
  TenantLocation: object({
    shards: list(object({ node_id: count, shard_id: id })),
    stripe_size: orNull(count),
  }),
  Timeline: object(
    {
      tenant_id: id,
      timeline_id: id,
      last_record_lsn: lsn,
      disk_consistent_lsn: lsn,
      remote_consistent_lsn: lsn,
      remote_consistent_lsn_visible: lsn,
      applied_gc_cutoff_lsn: lsn,
      min_readable_lsn: lsn,
      initdb_lsn: lsn,
      current_logical_size: count,
      current_logical_size_is_accurate: boolean,
      directory_entries_counts: { type: "object", additionalProperties: count },
      pitr_history_size: count,
      within_ancestor_pitr: boolean,
      pg_version: count,
      state: { anyOf: [text, object({ Broken: object({ reason: text, backtrace: text }) })] },
      walreceiver_status: text,
      ancestor_timeline_id: orNull(id),
      ancestor_lsn: orNull(lsn),
      prev_record_lsn: orNull(lsn),
      is_archived: boolean,
      branches: list(text),
    },
    {
      current_physical_size: count,
      current_logical_size_non_incremental: count,
      timeline_dir_layer_file_size_sum: count,
      wal_source_connstr: orNull(text),
      last_received_msg_lsn: orNull(lsn),
      last_received_msg_ts: orNull(count),
      is_invisible: boolean,
    },
  ),
  LayerMap: object({
    in_memory_layers: list(object({ kind: { enum: ["Open", "Frozen"] }, lsn_start: lsn }, { lsn_end: lsn })),
    historic_layers: list(
      object(
        {
          kind: { enum: ["Delta", "Image"] },
          layer_file_name: text,
          layer_file_size: count,
          lsn_start: lsn,
          remote: boolean,
          access_stats: object({
            access_time: count,
            residence_time: count,
            visible: boolean,
            access_count: count,
          }),
          value_count: count,
        },
        { lsn_end: lsn, l0: boolean },
      ),
    ),
  }),
  Keyspace: object({
    keys: list({
      type: "array",
      prefixItems: [ref("Key"), ref("Key")],
      minItems: 2,
      maxItems: 2,
    }),
    sparse_keys: list({}),
    at_lsn: lsn,
  }),
  Key: { type: "string", pattern: "^[0-9A-F]{36}$" },
  LsnByTimestamp: object(
    { lsn, kind: { enum: ["present", "future", "past", "nodata"] } },
    { valid_until: time },
  ),
  Time: time,
  LsnLease: object({ valid_until: time }),
  ReachedTimelines: { type: "object", additionalProperties: boolean },
  GcResult: object({
    layers_total: count,
    layers_needed_by_cutoff: count,
    layers_needed_by_pitr: count,
    layers_needed_by_branches: count,
    layers_needed_by_leases: count,
    layers_not_updated: count,
    layers_removed: count,
    removed_bytes: count,
    written_bytes: count,
    elapsed: count,
  }),
  Compacted: object({ merges: count, delta_layers: count, image_layers: count }),
  Empty: { type: "object" },
  Utilization: object({
    disk_usage_bytes: count,
    free_space_bytes: count,
    disk_wanted_bytes: count,
    disk_usable_pct: count,
    shard_count: count,
    max_shard_count: count,
    utilization_score: count,
    captured_at: time,
  }),
  TimelinesAndOffloaded: object({ timelines: list(ref("Timeline")), offloaded: list({ type: "object" }) }),
  TenantConfig: object({
    tenant_specific_overrides: object({}, TENANT_SETTINGS),
    effective_config: object({ ...TENANT_SETTINGS, cache_size: count, memory_limit: count }),
  }),
  OldBranch: object({
    name: text,
    timeline_id: id,
    latest_valid_lsn: count,
    ancestor_id: orNull(id),
    ancestor_lsn: orNull(lsn),
  }),
  CreatedBranch: object({ name: text, timeline_id: id, ancestor: orNull(ancestor) }),
  Branch: object(
    {
      name: text,
      timeline_id: id,
      ancestor: orNull(ancestor),
      last_record_lsn: lsn,
      durable_lsn: lsn,
      state: { enum: ["active", "stopped", "broken"] },
      error: orNull(text),
      lag_bytes: orNull(count),
      writer: orNull(object({ name: text, epoch: id, state: text, error: orNull(text) })),
      created_at: orNull(time),
      physical_bytes: orNull(count),
      followers: list(
        object({
          application_name: text,
          user: text,
          slot: orNull(text),
          state: { enum: ["catchup", "streaming"] },
          sent_lsn: lsn,
          write_lsn: orNull(lsn),
          flush_lsn: orNull(lsn),
          replay_lsn: orNull(lsn),
          lag_bytes: count,
          sent_bytes: count,
          since: time,
        }),
      ),
      verified_pages: orNull(count),
    },
    {
      lineage: orNull(object({ entries: list(object({ start_lsn: lsn, epoch: text })), end_lsn: lsn })),
    },
  ),
  Branches: object({ branches: list(ref("Branch")) }),
  Imported: object({ timeline_id: id, lsn, system_id: text, pg_version: count }),
  Deleted: object({ deleted: text }),
  Removed: object({ removed: text }),
  Released: object({ released: text }),
  User: object({ name: text, tenants: orNull(list(id)), created_at: time }),
  Users: object({ users: list(ref("User")) }),
  Keys: object({ keys: count }),
  Lsn: object({ lsn }),
  Writer: object({ epoch: id, lsn }),
  CommitTime: object({
    lsn,
    timestamp_us: orNull(count),
    timestamp_ms: orNull(count),
    timestamp: orNull(time),
  }),
  Lease: object({ name: text, lsn, expires_at: time }),
  Leases: object({ leases: list(ref("Lease")) }),
  RecoveryPlan: object({
    steps: list(object({ lsn, checkpoint_lsn: lsn, redo_lsn: lsn })),
    records: count,
  }),
  Fsck: object({
    state: text,
    timelines: list(object({ timeline_id: id, branches: list(text), ...part })),
    tenant: object(part),
  }),
  Repair: object({
    applied: boolean,
    steps: list(object({ kind: text, what: text, file: text, error: orNull(text) })),
    left: list(finding),
  }),
  Verification: object({
    pages: count,
    differences: list(object({ file: text, block: orNull(count), byte: orNull(count), what: text })),
    omitted: count,
  }),
  Compaction: object({
    timelines: list(
      object({
        timeline_id: id,
        branches: list(text),
        merges: count,
        input_layers: count,
        input_bytes: count,
        delta_layers: count,
        delta_bytes: count,
        image_layers: count,
        image_bytes: count,
      }),
    ),
  }),
  Gc: object({
    dry_run: boolean,
    removed_bytes: count,
    written_bytes: count,
    timelines: list(
      object({
        timeline_id: id,
        branches: list(text),
        gc_cutoff_lsn: orNull(lsn),
        removed_bytes: count,
        removed_layers: count,
        written_bytes: count,
        retained: list(object({ reason: text, bytes: count, layers: count })),
        points: list(object({ lsn, used_by: list(text) })),
      }),
    ),
  }),
  DiskUsage: object({
    timelines: list(
      object({
        timeline_id: id,
        branches: list(text),
        total_bytes: count,
        unique_bytes: count,
        own_shared_bytes: count,
        shared_bytes: count,
        history_bytes: count,
        wal_bytes: count,
      }),
    ),
    other_bytes: count,
    total_bytes: count,
  }),
} satisfies Readonly<Record<string, Schema>>;

export const PARAMETERS = { id, lsn, time, text, boolean, count } as const;

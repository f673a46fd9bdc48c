/**
 * When layers of a timeline are written, merged and waited for: as the server says, or the tenant's own settings where it
 * has any. Asked anew each time, so that a change of those holds at once.
 */
import type { MaintenanceOptions } from "../compaction/maintenance.ts";
import type { FlushLimits } from "./layer-flusher.ts";
import { DEFAULT_TENANT_SETTINGS, type TenantOverrides, flushDelayFor } from "./tenant-settings.ts";
import type { TimelineDependencies } from "./timeline-parts.ts";

type Server = Pick<
  TimelineDependencies,
  "checkpointDistanceBytes" | "checkpointTimeoutMs" | "flushedLayersMin" | "flushedLayersMax" | "own"
>;

export class TimelineLimits implements FlushLimits, MaintenanceOptions {
  private readonly server: Server;

  constructor(server: Server) {
    this.server = server;
  }

  get checkpointDistanceBytes(): number {
    return this.own?.checkpointDistanceBytes ?? this.server.checkpointDistanceBytes;
  }

  get checkpointTimeoutMs(): number {
    return this.own?.checkpointTimeoutMs ?? this.server.checkpointTimeoutMs;
  }

  get flushedLayersMin(): number {
    return (
      this.own?.flushedLayersMin ?? this.server.flushedLayersMin ?? DEFAULT_TENANT_SETTINGS.flushedLayersMin
    );
  }

  get flushedLayersMax(): number | undefined {
    const { own, server } = this;
    const periodMs = own?.compactionPeriodMs ?? (server.flushedLayersMax === undefined ? 0 : 1);
    const decides = own?.compactionPeriodMs !== undefined || own?.flushedLayersMin !== undefined;
    const usual = decides
      ? flushDelayFor({ compactionPeriodMs: periodMs, flushedLayersMin: this.flushedLayersMin })
      : server.flushedLayersMax;
    const layers = own?.flushDelayLayers ?? usual ?? 0;
    return layers === 0 ? undefined : layers;
  }

  get layerBytesMax(): number {
    return this.own?.layerBytesMax ?? DEFAULT_TENANT_SETTINGS.layerBytesMax;
  }

  get imageLayersMax(): number {
    return this.own?.imageLayersMax ?? DEFAULT_TENANT_SETTINGS.imageLayersMax;
  }

  private get own(): TenantOverrides | undefined {
    return this.server.own?.();
  }
}

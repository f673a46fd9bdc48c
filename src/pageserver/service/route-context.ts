/** What routes have in common: what they are made of, and how they find their tenant and timeline. */
import type { ShownSettings } from "../server-settings.ts";
import type { PageReaders } from "../read/timeline-pages.ts";
import type { ServedTimeline } from "../timeline/served-timeline.ts";
import type { Tenant } from "../timeline/tenant.ts";
import type { TenantSettings } from "../timeline/tenant-settings.ts";
import type { Tenants } from "../timeline/tenants.ts";
import type { JwtKeys } from "./jwt-keys.ts";
import type { Metrics } from "./metrics.ts";
import type { Answer, ApiRequest } from "./request.ts";
import type { Router } from "./router.ts";
import type { Users } from "./users.ts";

export type Handler = (request: ApiRequest) => Promise<Answer>;
export type ApiRouter = Router<Handler>;
export type AnyTenant = Tenant<ServedTimeline>;

export interface RouteContext {
  readonly tenants: Tenants<ServedTimeline>;
  readonly users: Users;
  readonly keys: JwtKeys | undefined;
  readonly metrics: Metrics;
  readonly readers: PageReaders;
  /** As clients see the settings of a tenant, and the server's that it shares. */
  readonly show: (settings: TenantSettings) => ShownSettings;
  /** Of the pageserver program. */
  readonly version: string;
  /** Holds the tenants. */
  readonly workdir: string;
  /** What the original's programs call this server. */
  readonly nodeId: number;
}

/** Beginnings of paths: of a tenant, and of a timeline. */
export const T = "/v1/tenant/:tenant";
export const TL = `${T}/timeline/:timeline`;

export interface Finders {
  /** A handler that gets the tenant of the path. */
  readonly inTenant: (handler: (request: ApiRequest, tenant: AnyTenant) => Promise<Answer>) => Handler;
  /** A handler that gets the timeline of the path, and its tenant. */
  readonly onTimeline: (
    handler: (request: ApiRequest, timeline: ServedTimeline, tenant: AnyTenant) => Promise<Answer>,
  ) => Handler;
}

export function findersOf(tenants: Tenants<ServedTimeline>): Finders {
  const tenantOf = (request: ApiRequest): AnyTenant => tenants.get(request.tenantId);
  return {
    inTenant: (handler) => async (request) => handler(request, tenantOf(request)),
    onTimeline: (handler) => async (request) => {
      const tenant = tenantOf(request);
      return handler(request, tenant.timeline(request.timelineId), tenant);
    },
  };
}

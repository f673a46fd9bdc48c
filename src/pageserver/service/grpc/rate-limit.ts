/**
 * How many pages a tenant may read per second. Up to a second's worth is saved up. A request that finds nothing left is
 * refused, not delayed; one that finds something may take more than that, and those behind it wait for it to be paid.
 */
import type { TenantId } from "../../../base/ids.ts";
import { slowDown } from "./grpc-status.ts";

interface Bucket {
  pages: number;
  /** By the clock that was given, in milliseconds. */
  filledAt: number;
}

export class RateLimit {
  private readonly pagesPerSecond: number;
  private readonly now: () => number;
  private readonly buckets = new Map<TenantId, Bucket>();

  /** 0: no limit. */
  constructor(pagesPerSecond: number, now: () => number = () => performance.now()) {
    this.pagesPerSecond = pagesPerSecond;
    this.now = now;
  }

  /** Throws SLOW_DOWN. Only for tenants that there are: each that is named is remembered. */
  take(tenant: TenantId, pages: number): void {
    const { pagesPerSecond } = this;
    if (pagesPerSecond === 0) return;
    const now = this.now();
    let bucket = this.buckets.get(tenant);
    if (!bucket) {
      bucket = { pages: pagesPerSecond, filledAt: now };
      this.buckets.set(tenant, bucket);
    }
    const earned = ((now - bucket.filledAt) / 1000) * pagesPerSecond;
    bucket.pages = Math.min(pagesPerSecond, bucket.pages + earned);
    bucket.filledAt = now;
    if (bucket.pages <= 0)
      throw slowDown(`tenant ${tenant} reads more than ${pagesPerSecond} pages a second`);
    bucket.pages -= pages;
  }
}

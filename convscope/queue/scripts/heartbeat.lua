#!lua flags=allow-oom
-- A worker lives: what it says of itself, and when, by the server's clock.

redis.call('SET', key('worker', args.id), args.info, 'PX', WORKER_KEPT_MS)
redis.call('ZADD', key('workers'), now, args.id)
return now

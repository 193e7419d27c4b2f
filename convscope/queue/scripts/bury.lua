#!lua flags=allow-oom
-- A worker is known to be dead (its lock is free): what it holds need not wait for the end of its leases. The next sweep
-- takes them for lost. Sent twice, it finds nothing more.

local found = 0
for _, run in ipairs(redis.call('SMEMBERS', key('held', args.worker))) do
  local held = redis.call('HMGET', key('run', run), 'owner', 'state')
  if held[1] == args.worker and held[2] == 'running' then
    redis.call('ZADD', key('leases'), now, run)
    found = found + 1
  end
end
redis.call('ZREM', key('workers'), args.worker)
redis.call('DEL', key('worker', args.worker))
return found

#!lua flags=allow-oom
-- A caller wants a finished job gone, with all that this server knows by it. `idempotency`, `digest` and `result` are
-- from its record, which may be in the archive. Sent twice, the second time finds nothing, and says so like the first.

local at = key('job', args.id)
local held = redis.call('HMGET', at, 'state', 'caller')
if held[2] and held[2] ~= args.caller then return 'not-found' end
if ACTIVE[held[1]] then return 'unfinished' end
redis.call('DEL', at, key('events', args.id))
redis.call('HDEL', archived(args.caller, args.id), args.id)
redis.call('ZREM', key('index', args.caller), args.id)
redis.call('ZREM', key('finished'), args.id)
free_key(args.idempotency, args.id)
if args.digest ~= '' then
  if redis.call('GET', key('result', args.digest)) == args.result then redis.call('DEL', key('result', args.digest)) end
  redis.call('DEL', key('answer', args.digest, args.caller))
end
return 'deleted'

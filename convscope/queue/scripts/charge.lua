#!lua
-- Put an image on its caller's account, until its pixels expire. Those of others that have expired leave it here. An image
-- that is on it already stays longer. Sent twice, it finds it there.

local account = key('stored', args.caller)
for _, one in ipairs(redis.call('ZRANGEBYSCORE', account, '-inf', now, 'LIMIT', 0, 1000)) do
  redis.call('ZREM', account, one)
  redis.call('HINCRBY', key('stored_bytes'), args.caller, -tonumber(string.match(one, '%d+$')))
end
local entry = args.id .. ' ' .. args.bytes
local total = tonumber(redis.call('HGET', key('stored_bytes'), args.caller) or '0')
if not redis.call('ZSCORE', account, entry) then
  if total + tonumber(args.bytes) > tonumber(args.share) then return { 'full', total } end
  total = redis.call('HINCRBY', key('stored_bytes'), args.caller, args.bytes)
end
redis.call('ZADD', account, now + tonumber(args.keep_ms), entry)
return { 'charged', total }

#!lua
-- Forget a caller's network. Sent twice, it finds nothing, which its client takes for the answer that got lost.

local heads = key('networks')
local held = redis.call('HGET', heads, args.id)
local before = held and cjson.decode(held) or nil
if not before or (before.owner ~= args.caller and before.visible_to ~= 'all') then return 'missing' end
if before.owner ~= args.caller then return 'foreign' end
if args.if_match ~= '' and args.if_match ~= '*' and not string.find(args.if_match, before.etag, 1, true) then
  return 'changed'
end
redis.call('HDEL', heads, args.id)
redis.call('DEL', key('network', args.id), key('card', args.id .. '@' .. before.version))
return 'deleted'

#!lua
-- A network that a caller brings, in place of the caller's own of that id. Sent twice, it finds what it wrote.
-- A head says whose it is, in which version, and how many bytes its file has; the whole entry stands beside it.

local heads = key('networks')
local held = redis.call('HGET', heads, args.id)
local before = held and cjson.decode(held) or nil

if before and before.owner ~= args.caller then return { 'taken', '' } end
if args.if_match ~= '' and args.if_match ~= '*' and not (before and string.find(args.if_match, before.etag, 1, true)) then
  return { 'changed', held or '' }
end
if args.if_match == '*' and not before then return { 'changed', '' } end
if args.if_none_match == '1' and before then return { 'there', held } end
if before and before.etag == args.etag then return { 'same', held } end

local networks, bytes = 1, tonumber(args.bytes)
for _, text in ipairs(redis.call('HVALS', heads)) do
  local other = cjson.decode(text)
  if other.owner == args.caller and other.id ~= args.id then
    networks = networks + 1
    bytes = bytes + other.bytes
  end
end
if networks > tonumber(args.most_networks) then return { 'many', '' } end
if bytes > tonumber(args.most_bytes) then return { 'large', tostring(bytes) } end

local head = cjson.decode(args.head)
head.created_ms = before and before.created_ms or now
head.updated_ms = now
local text = cjson.encode(head)
redis.call('HSET', heads, args.id, text)
redis.call('SET', key('network', args.id), args.entry)
if before and before.version ~= head.version then redis.call('DEL', key('card', args.id .. '@' .. before.version)) end
return { before and 'replaced' or 'new', text }

#!lua flags=allow-oom
-- How far a run is, told to all its jobs. The record always follows; events come at most every `every_ms`, except with a
-- preview. Sent twice (the same token), it says nothing new. A new attempt goes over steps again that were told before:
-- what is told never goes back, it stands still until they are passed.

local held = owned(args.run, args.epoch)
if not held then return 'fenced' end
if held.cancelling == '1' then return 'cancelled' end
if held.progress_token == args.token then return 'go-on' end

local speak = args.preview ~= '' or now - tonumber(held.spoken_ms or '0') >= tonumber(args.every_ms)
redis.call('HSET', key('run', args.run), 'progress_token', args.token)
if speak then redis.call('HSET', key('run', args.run), 'spoken_ms', now) end
for _, job in ipairs(members(args.run)) do
  local at = key('job', job)
  local told = redis.call('HMGET', at, 'done', 'total')
  local done = args.done
  if tonumber(told[2]) == tonumber(args.total) and tonumber(told[1]) > tonumber(done) then done = told[1] end
  redis.call('HSET', at, 'done', done, 'total', args.total, 'message', args.message, 'losses', args.losses)
  redis.call('HINCRBY', at, 'revision', 1)
  if speak then
    local said = { done = tonumber(done), total = tonumber(args.total), message = args.message }
    if args.losses ~= '' then said.losses = cjson.decode(args.losses) end
    emit(job, 'progress', said)
    if args.preview ~= '' then emit(job, 'preview', { key = args.preview }) end
    changed(job, 'running')
  end
end
return 'go-on'

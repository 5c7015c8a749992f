"""References from Pillow and from photos as they are: HEIC, sideways, CMYK or too large.

python examples/pillow_references.py ~/Photos/IMG_0001.HEIC

Without a photo it draws one. The picture becomes the first frame of a clip.
"""

import asyncio
import sys

from PIL import Image as Pillow
from PIL import ImageDraw

from kling_async import Client, Video, prepare_image
from kling_async.sandbox import sandbox_without_key


def drawn() -> Pillow.Image:
    image = Pillow.new("CMYK", (1600, 900), (60, 20, 0, 10))
    ImageDraw.Draw(image).polygon([(500, 500), (1100, 500), (950, 650), (650, 650)], fill=(0, 0, 0, 0))
    return image


async def main(photo: str | None) -> None:
    # It decodes the whole picture, which takes a moment: in a thread, the event loop goes on.
    frame = await asyncio.to_thread(prepare_image, photo or drawn(), max_side=1280, max_bytes=10 * 1024**2)
    print(frame.describe())
    async with Client() as client:
        result = await client.run(Video("the boat sails away", first_frame=frame), save_to="out")
        print(*result.files)


if __name__ == "__main__":
    with sandbox_without_key():
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
